"""Maps with coastlines and degrees: rows and columns are drawn directly, all other grids by the nearest point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.geometry import unit_vectors
from ..grids import MapGrid
from .coastlines import coastlines_between
from .colours import Scale
from .labels import meridian, parallel
from .style import MISSING, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COAST: dict[str, Any] = {"colors": "#222222", "linewidths": 0.55}
PIXELS = 360
"""Rows or columns, whichever are more, of the picture of cells."""

WIDEST, TALLEST = 2.6, 1.25
"""Limits of the height of a map over its width, and of the width over the height."""


def shape_of_map(grid: MapGrid) -> float:
    """Height over width of a map, on which a degree north is as long as one east in the middle of a region."""
    (south, north), (west, east) = extent(grid)
    ratio = (north - south) / (east - west) * _stretch(grid)
    return float(np.clip(ratio, 1 / WIDEST, TALLEST))


def height_of_row(grid: MapGrid, count: int) -> float:
    """Height in inches of a row of so many maps across a figure, without titles and colour bars."""
    return WIDTH / count * 0.86 * shape_of_map(grid)


def extent(grid: MapGrid) -> tuple[tuple[float, float], tuple[float, float]]:
    """The edges of a map, half a step beyond the outer points: from and to along y, and along x."""
    if grid.rectangular:
        return _edges(grid.y, grid), _edges(grid.x, grid)
    y, x = grid.y, unwrapped(grid)
    step = np.sqrt(np.ptp(y) * np.ptp(x) / y.size) / 2
    east = min(x.max() + step, x.min() - step + 360)
    return (max(float(y.min() - step), -90.0), min(float(y.max() + step), 90.0)), (float(x.min() - step), float(east))


def _edges(axis: np.ndarray, grid: MapGrid) -> tuple[float, float]:
    half = abs(axis[-1] - axis[0]) / max(len(axis) - 1, 1) / 2 or 0.5
    low, high = float(axis.min() - half), float(axis.max() + half)
    return (max(low, -90.0), min(high, 90.0)) if grid.geographic and axis is grid.y else (low, high)


def unwrapped(grid: MapGrid) -> np.ndarray:
    """Longitudes of scattered points, in the range of 360 degrees whose ends lie in their widest gap."""
    turn = np.sort(grid.x.ravel() % 360)
    gaps = np.diff(np.append(turn, turn[0] + 360))
    first = turn[(int(np.argmax(gaps)) + 1) % len(turn)] if gaps.max() > 10 else -180.0
    return np.asarray(first + (grid.x - first) % 360)


def _stretch(grid: MapGrid) -> float:
    if not grid.geographic or np.ptp(extent(grid)[1]) > 200:
        return 1.0
    return float(1 / max(np.cos(np.deg2rad(np.mean(extent(grid)[0]))), 0.3))


def draw_map(axis: Axes, grid: MapGrid, field: np.ndarray, scale: Scale, title: str = "") -> Any:
    """Draw a field [rows, columns], missing points in grey, with coastlines; returns the image for a colour bar."""
    values = np.ma.masked_invalid(field)
    south_north, west_east = extent(grid)
    image: Any
    if grid.rectangular:
        image = axis.pcolormesh(grid.x, grid.y, values, shading="nearest", rasterized=True, **scale)
    else:
        picture = np.ma.masked_invalid(nearest_picture(grid, np.asarray(field).ravel()))
        image = axis.imshow(
            picture, extent=(*west_east, *south_north), origin="lower", aspect="auto", interpolation="nearest", **scale
        )
    axis.set(xlim=west_east, ylim=south_north)
    if grid.geographic:
        from matplotlib.collections import LineCollection

        axis.add_collection(LineCollection(coastlines_between(*west_east), **COAST), autolim=False)
    _name_axes(axis, grid)
    if shape_of_map(grid) not in (1 / WIDEST, TALLEST):
        axis.set_aspect(_stretch(grid))
    axis.set_facecolor(MISSING)
    axis.spines[["top", "right"]].set_visible(True)
    axis.set_title(title)
    return image


def nearest_picture(grid: MapGrid, values: np.ndarray) -> np.ndarray:
    """Values of scattered points [points] on a regular picture [rows, columns], each from the nearest point on the sphere.

    Pixels farther from it than its fourth neighbour are empty.
    """
    from scipy.spatial import KDTree

    (south, north), (west, east) = extent(grid)
    tall = (north - south) / (east - west)
    rows, columns = (PIXELS, round(PIXELS / tall)) if tall > 1 else (round(PIXELS * tall), PIXELS)
    y = south + (np.arange(max(rows, 2)) + 0.5) * (north - south) / max(rows, 2)
    x = west + (np.arange(max(columns, 2)) + 0.5) * (east - west) / max(columns, 2)
    points = unit_vectors(grid.y.ravel(), grid.x.ravel())
    tree = KDTree(points)
    reach = tree.query(points, k=min(5, len(points)))[0][:, -1]
    distance, nearest = tree.query(unit_vectors(*(one.ravel() for one in np.meshgrid(y, x, indexing="ij"))))
    return np.where(distance <= reach[nearest], values[nearest], np.nan).reshape(len(y), len(x))


def _name_axes(axis: Axes, grid: MapGrid) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    axis.tick_params(length=2.5, labelsize=8)
    if not grid.geographic:
        axis.set_xlabel(grid.labels[1], fontsize=8.5)
        axis.set_ylabel(grid.labels[0], fontsize=8.5)
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_locator(MaxNLocator(4))
        return
    wide, tall = (np.ptp(one) for one in reversed(extent(grid)))
    steps = [1, 1.5, 2, 3, 4.5, 5, 10]
    axis.xaxis.set_major_locator(MultipleLocator(90) if wide > 270 else MaxNLocator(5, steps=steps))
    axis.yaxis.set_major_locator(MultipleLocator(30) if tall > 120 else MaxNLocator(4, steps=steps))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: meridian(x)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: parallel(y)))


def colour_bar(image: Any, axes: Sequence[Axes], label: str, extend: str = "neither") -> None:
    """A colour bar below some maps of one row."""
    figure = axes[0].get_figure()
    assert figure is not None
    bar = figure.colorbar(
        image, ax=list(axes), orientation="horizontal", extend=extend, extendfrac=0.02, fraction=0.05, pad=0.03,
        aspect=28 * len(axes), shrink=0.86 if len(axes) == 1 else 0.6,
    )  # fmt: skip
    bar.set_label(label, fontsize=8.5)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=8, length=2.5)
