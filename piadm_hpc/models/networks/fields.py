"""The network for a grid of fields: a U-Net on rows and columns, or on cells."""

from __future__ import annotations

from collections.abc import Mapping

from ...data.geometry import Wrap, angles_of_cells
from ...schema.layout import Coordinate
from ..config import NetworkConfig
from .cells import CellUNet
from .unet import GridUNet, latitudes_from


def make_field_network(
    inputs: int,
    outputs: int,
    grid: Mapping[str, Coordinate],
    auxiliary: Mapping[str, Coordinate],
    wrap: Wrap,
    config: NetworkConfig,
    given: tuple[int, int] | None = None,
) -> GridUNet | CellUNet:
    """Return the network for fields on a `grid` of rows and columns, or of cells, whose places are `auxiliary` coordinates.

    `given` are the numbers of maps and of numbers of its condition, None without one. Raises ValueError for cells without places.
    """
    if len(grid) == 1:
        return CellUNet(inputs, outputs, *angles_of_cells(next(iter(grid)), auxiliary), config, given)
    lat, lon = grid.values()
    return GridUNet(inputs, outputs, latitudes_from(lat.values), len(lon.values), wrap, config, given)
