"""The layout of a foreign network's states in files: variables, coordinates with their attributes, atoms, and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from ..config.validation import ConfigError
from ..schema.layout import Coordinate, Layout, Variable, conformer_layout
from ..schema.topology import Atom, Topology
from .adapter_config import AdapterConfig, ChannelSpec


def read_grid(config: AdapterConfig, folder: Path) -> tuple[dict[str, Coordinate], np.ndarray | None]:
    """Return the coordinates of a grid's axes, and the mask [y, x] that is true where there are data (None: everywhere).

    Both come from the file that the adapter names; without one the axes are numbered. Rows that are not latitudes have equal
    weights. Raises ConfigError naming the file and
    everything in it that does not fit.
    """
    grid = dict(zip(config.dims, config.grid or (), strict=False))
    if config.coordinates is None:
        numbered = {dim: Coordinate((dim,), np.arange(n, dtype=np.float64), {"units": "1"}) for dim, n in grid.items()}
        return _weighted(numbered), None
    path = folder / config.coordinates
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; adapter.toml names it as coordinates, and paths there start at its folder")
    try:
        with xr.open_dataset(path, decode_times=False) as opened:
            dataset = opened.load()
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: xarray cannot open it: {reason}") from None
    mistakes = [text for dim, size in grid.items() for text in _axis_mistakes(dataset, dim, size)]
    if config.mask is not None:
        mistakes += _mask_mistakes(dataset, config.mask, grid)
    if mistakes:
        raise ConfigError(f"{path}: {'; '.join(mistakes)}")
    axes = _weighted({dim: Coordinate((dim,), np.asarray(dataset[dim].values), _attributes(dataset[dim])) for dim in grid})
    if config.mask is None:
        return axes, None
    values = dataset[config.mask].transpose(*grid).values.astype(np.float64)
    return axes, np.isfinite(values) & (values != 0)


def _weighted(axes: dict[str, Coordinate]) -> dict[str, Coordinate]:
    """Give rows that are not latitudes equal weights, so that their numbers are not taken for degrees later."""
    if not axes:
        return axes
    dim, rows = next(iter(axes.items()))
    units, name = str(rows.attrs.get("units", "")).lower(), str(rows.attrs.get("standard_name", dim)).lower()
    if name.startswith("lat") or units.replace("_", "").replace("s", "") in ("degreenorth", "degreen"):
        return axes
    equal = np.ones(len(rows.values))
    return axes | {"cell_weight": Coordinate((dim,), equal, {"long_name": "area of a row's cells, relative", "units": "1"})}


def _axis_mistakes(dataset: xr.Dataset, dim: str, size: int) -> list[str]:
    if dim not in dataset.coords:
        return [
            f"no coordinate {dim}; there are {', '.join(map(str, dataset.coords)) or 'none'} (name the grid's axes with dims)"
        ]
    values = dataset[dim].values
    if values.shape != (size,):
        return [f"{dim} has shape {list(values.shape)}, adapter.toml says grid = {size} there"]
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        return [f"{dim} has values that are not finite numbers"]
    steps = np.diff(values.astype(np.float64))
    if not ((steps > 0).all() or (steps < 0).all()):
        return [f"{dim} neither rises nor falls throughout"]
    return []


def _mask_mistakes(dataset: xr.Dataset, name: str, grid: dict[str, int]) -> list[str]:
    if name not in dataset:
        return [f"no variable {name}, the mask; there are {', '.join(map(str, dataset.data_vars)) or 'none'}"]
    if set(dataset[name].dims) != set(grid):
        return [f"the mask {name} has dimensions {', '.join(map(str, dataset[name].dims))}, not {', '.join(grid)}"]
    values = dataset[name].values
    if values.dtype.kind not in "biuf" or not bool((np.nan_to_num(values.astype(np.float64)) != 0).any()):
        return [f"the mask {name} leaves no point with data"]
    return []


def _attributes(coordinate: xr.DataArray) -> dict[str, str]:
    return {key: str(value) for key, value in coordinate.attrs.items() if isinstance(value, (str, int, float))}


def make_layout(config: AdapterConfig, axes: dict[str, Coordinate]) -> Layout:
    """Return how decoded channels are stored: fields over the `axes` of a grid, or atoms.

    Atoms have a topology without bonds where the channel `coordinates` has three components.
    """
    if config.grid is not None:
        axes = dict(axes)
        return Layout(tuple(_grid_variable(channel, axes, config.dims) for channel in config.channels), axes)
    base = conformer_layout(Topology(_atoms(config.atoms, config.elements)))
    axes, variables = dict(base.coordinates), []
    for channel in config.channels:
        dims: tuple[str, ...] = ("atom",)
        if channel.size == 3 and channel.centred:
            dims = ("atom", "spatial")
        elif channel.size > 1:
            dims = ("atom", _component_axis(channel, axes))
        variables.append(Variable(channel.name, dims, channel.attributes))
    positions = any(v.name == "coordinates" and v.dims == ("atom", "spatial") for v in variables)
    return Layout(tuple(variables), axes, "sample", base.topology if positions else None)


def _grid_variable(channel: ChannelSpec, axes: dict[str, Coordinate], dims: tuple[str, str]) -> Variable:
    if channel.size == 1:
        return Variable(channel.name, dims, channel.attributes)
    return Variable(channel.name, (_component_axis(channel, axes), *dims), channel.attributes)


def _component_axis(channel: ChannelSpec, axes: dict[str, Coordinate]) -> str:
    """Number the components of a channel along an axis of their own; returns its name."""
    axis = f"{channel.name}_component"
    axes[axis] = Coordinate((axis,), np.arange(channel.size, dtype=np.int32))
    return axis


def _atoms(sizes: Sequence[int], elements: Sequence[str]) -> tuple[Atom, ...]:
    """Atoms named by element and number, one residue per molecule."""
    named = elements or ["C"] * sum(sizes)
    residues = np.repeat(np.arange(len(sizes)), sizes)
    return tuple(
        Atom(f"{e}{k + 1}"[:4], e, "MOL", int(r) + 1, int(r)) for k, (e, r) in enumerate(zip(named, residues, strict=True))
    )
