"""Observations of physical fields as linear observations of a model's states: operator, units, means and masks."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ...data.normalise import Normalisation
from ...data.observations import ObservationTable
from ...data.transforms import Transform
from ...data.units import converted, same_units, units_of
from ...gaussian.observed import LinearObservations
from ..model import Model
from .places import LARGEST_DEGREE, Grid, Weights
from .pointwise import PointwiseObservations, entry_values

log = logging.getLogger("piadm_hpc")

LARGEST_ROWS = 200_000_000
"""Largest number of entries of all operators together."""

COARSE = 1.5
"""A field counts as box means where its cells are this many times as wide as the model's."""


@dataclass(frozen=True)
class Fields:
    """The fields of a model as affine functions of its states: slope * state + offset, [variables, points].

    `there` is false at points without data. The fields of variables in `transforms` are scores, from which the inverse transform
    computes values.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    grid: Grid
    slope: np.ndarray
    offset: np.ndarray
    there: np.ndarray
    transforms: Mapping[str, Transform]

    @classmethod
    def of(cls, model: Model) -> Fields:
        """Determine them from the model's own decoding; ValueError for a model of anything but fields over two dimensions."""
        variables, coordinates = model.layout.variables, model.layout.coordinates
        dims = variables[0].dims
        sizes = tuple(len(coordinates[dim].values) for dim in dims if dim in coordinates)
        count = int(np.prod(sizes)) * len(variables)
        if model.layout.topology is not None or len(sizes) != 2 or count != int(np.prod(model.event_shape)):
            raise ValueError("observations at places need a model of fields over two dimensions; give observations.operator")
        grid = Grid.of({dim: coordinates[dim] for dim in dims})
        names, units = tuple(v.name for v in variables), tuple(units_of(variable.attrs) or "1" for variable in variables)
        if isinstance(model.normalisation, Normalisation) and model.normalisation.transforms:
            slope, offset, there = (
                part.reshape(len(names), -1)
                for part in (model.normalisation.scale, model.normalisation.mean, model.normalisation.mask)
            )
            slope, offset = (np.where(there, part, 0.0).astype(np.float64) for part in (slope, offset))
            return cls(names, units, grid, slope, offset, there, model.normalisation.transforms)
        return cls(names, units, grid, *straight_lines(model), {})


def straight_lines(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return slope and offset of a model's fields as affine functions of its states, zero without data, and the mask of data.

    Each is [variables, points]; fields of all variables must have the same size.
    """
    levels = (model.normalisation.decode(torch.full((1, *model.event_shape), level)) for level in (0.0, 2.0))
    zero, two = (np.stack([values[0].astype(np.float64).ravel() for values in fields.values()]) for fields in levels)
    there = np.isfinite(zero)
    return np.where(there, (two - zero) / 2, 0.0), np.where(there, zero, 0.0), there


def encode(
    table: ObservationTable,
    model: Model,
    *,
    nearest: bool = False,
    cells: str = "auto",
    removed: np.ndarray | None = None,
    dated: bool = False,
) -> tuple[LinearObservations | PointwiseObservations, ObservationTable]:
    """Return the observations of a model's states, and the rows of the table to which they belong.

    Those of variables that the model transforms are linear in values, not in states.

    `nearest` takes the nearest grid point instead of bilinear interpolation. `cells` is the meaning of the values of a field:
    "points", "boxes", or "auto", boxes where the field is coarser than the model. `removed` [variables, lat, lon] is the
    climatology that values still contain. With `dated` rows of different times are different observations. Values of a field
    where the model has no data are left out. Raises ValueError with all mistakes at once: unknown variables, units that do not
    convert, places outside the domain or without data, duplicates.
    """
    fields = Fields.of(model)
    mistakes = _misnamed(table, fields) + _misplaced(table, fields.grid)
    if mistakes:
        raise ValueError("; ".join(mistakes))
    boxes = cells == "boxes" or (cells == "auto" and _coarse(table, fields.grid))
    channel = np.array([fields.names.index(name) for name in table["variable"]])
    raw = [_weights(table, row, fields.grid, nearest=nearest, boxes=boxes) for row in range(len(table))]
    if sum(len(places) for places, _ in raw) > LARGEST_ROWS:
        raise ValueError(f"{len(table)} observations read more than {LARGEST_ROWS:,} grid points; thin them out")
    kept = [_with_data(places, weights, fields.there[k]) for (places, weights), k in zip(raw, channel, strict=True)]
    seen = np.array([len(places) > 0 for places, _ in kept])
    if (dark := ~seen & (table["kind"] != "cell")).any():
        mistakes.append(f"where the model has no data (masked): {table.of_mistake(dark)}")
    values, std, wrong = _in_units(table, fields, channel, anomaly=removed is None and _anomaly(model))
    mistakes += wrong + _duplicates(table, kept, channel, table.dates if dated else np.full(len(table), ""))
    if not mistakes and not seen.any():
        mistakes.append("none of the values lies where the model has data")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    if not seen.all():
        log.info("observations: %d of %d values lie where the model has no data, and are left out", int((~seen).sum()), len(seen))
    rows = [(places, weights) for (places, weights), good in zip(kept, seen, strict=True) if good]
    offset = fields.offset if removed is None else fields.offset + np.nan_to_num(removed.reshape(fields.offset.shape))
    table, channel = table.keep(seen), channel[seen]
    if not any(fields.names[k] in fields.transforms for k in channel):
        return _linear(table, rows, channel, fields.slope, offset, values[seen], std[seen]), table
    if removed is not None:
        raise ValueError("observations.absolute: the model transforms its fields; give values as it has them")
    # errors are scaled to one, so that variables of all units can be solved for together
    plain = _linear(table, rows, channel, np.ones_like(fields.slope), 0 * offset, values[seen], std[seen])
    white = plain.scaled(1 / plain.std)
    return PointwiseObservations.of(white, entry_values(fields.names, fields.slope, offset, fields.transforms)), table


def _linear(
    table: ObservationTable, rows: list[Weights], channel: np.ndarray, slope: np.ndarray, offset: np.ndarray,
    values: np.ndarray, std: np.ndarray,
) -> LinearObservations:  # fmt: skip
    """Observations in units of states: every row's weights times the scales sum to one in size."""
    size, numbers, places, columns, entries = slope.shape[1], values.copy(), [], [], []
    norm = np.empty(len(values))
    for row, ((points, weights), k) in enumerate(zip(rows, channel, strict=True)):
        scaled = weights * slope[k, points]
        norm[row] = np.abs(scaled).sum()
        numbers[row] -= weights @ offset[k, points]
        places.append(np.full(len(points), row))
        columns.append(k * size + points)
        entries.append(scaled / norm[row])
    index = torch.from_numpy(np.stack([np.concatenate(places), np.concatenate(columns)]).astype(np.int64))
    matrix = torch.sparse_coo_tensor(
        index, torch.from_numpy(np.concatenate(entries)), (len(values), slope.size), check_invariants=True
    )
    return LinearObservations(
        torch.from_numpy(numbers / norm),
        matrix.coalesce(),
        torch.from_numpy(std / norm),
        torch.from_numpy(table["group"].astype(np.int64)),
        torch.from_numpy(table["correlation"].astype(np.float64)),
    )


def _anomaly(model: Model) -> bool:
    return str(model.card.get("anomaly", "none")) != "none"


def _misnamed(table: ObservationTable, fields: Fields) -> list[str]:
    mistakes = []
    for name in dict.fromkeys(table["variable"]):
        if name not in fields.names:
            close = difflib.get_close_matches(name, fields.names, 1)
            advice = f"did you mean {close[0]}?" if close else f"the model has {', '.join(fields.names)}"
            mistakes.append(f"unknown variable {name!r} ({table.of_mistake(table['variable'] == name)}); {advice}")
    return mistakes


def _misplaced(table: ObservationTable, grid: Grid) -> list[str]:
    kind, mistakes = table["kind"], []
    for what, columns in (("point", ("lat", "lon")), ("cell", ("cell_lat", "cell_lon"))):
        wrong = (kind == what) & grid.outside(*(table[name] for name in columns))
        if wrong.any():
            mistakes.append(f"outside the model's domain{_domain(grid)}: {table.of_mistake(wrong)}")
    box = kind == "box"
    south, north, west, east = (table[name] for name in ("south", "north", "west", "east"))
    beyond = grid.outside((south + north) / 2, west) | grid.outside((south + north) / 2, east)
    wrong = box & ~((south < north) & (grid.polar | (west < east)) & ~beyond)
    if wrong.any():
        mistakes.append(f"boxes need south < north and a place in the model's domain{_domain(grid)}: {table.of_mistake(wrong)}")
    degree, order = table["degree"], table["order"]
    whole = (degree == np.floor(degree)) & (order == np.floor(order)) & (degree >= 0) & (np.abs(order) <= degree)
    wrong = (kind == "harmonic") & ~(whole & (degree <= LARGEST_DEGREE))
    if wrong.any():
        mistakes.append(f"degree and order must be whole, |order| <= degree <= {LARGEST_DEGREE}: {table.of_mistake(wrong)}")
    if not grid.whole and (kind == "harmonic").any():
        mistakes.append("spherical harmonics need a model of the whole globe")
    return mistakes


def _domain(grid: Grid) -> str:
    if grid.whole:
        return " (latitudes -90 to 90, longitudes -360 to 360)"
    rows, columns = grid.row_edges, grid.column_edges
    return f" ({rows.min():g} to {rows.max():g}, {columns.min():g} to {columns.max():g})"


def _coarse(table: ObservationTable, grid: Grid) -> bool:
    """Whether the cells of a field are wider than the model's."""
    cell = table["kind"] == "cell"
    if not cell.any():
        return False
    own = np.median(np.abs(np.diff(grid.rows))), np.median(np.abs(np.diff(grid.columns)))
    theirs = np.median((table["north"] - table["south"])[cell]), np.median((table["east"] - table["west"])[cell])
    return bool(theirs[0] > COARSE * own[0] or theirs[1] > COARSE * own[1])


def _weights(table: ObservationTable, row: int, grid: Grid, *, nearest: bool, boxes: bool) -> Weights:
    kind = str(table["kind"][row])

    def at(name: str) -> float:
        return float(table[name][row])

    if kind == "box" or (kind == "cell" and boxes):
        return grid.box(at("south"), at("north"), at("west"), at("east"))
    if kind == "harmonic":
        return grid.harmonic(int(at("degree")), int(at("order")))
    lat, lon = ("cell_lat", "cell_lon") if kind == "cell" else ("lat", "lon")
    return grid.point(at(lat), at(lon), nearest=nearest)


def _with_data(places: np.ndarray, weights: np.ndarray, there: np.ndarray) -> Weights:
    """The weights of points with data; their sum does not change."""
    good = there[places]
    if good.all() or not good.any():
        return places[good], weights[good]
    total = weights[good].sum()
    return places[good], weights[good] * (weights.sum() / total if total > 0 else 1.0)


def _in_units(
    table: ObservationTable, fields: Fields, channel: np.ndarray, *, anomaly: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Values and errors in the model's units; units that do not convert are mistakes."""
    values, std, mistakes = table["value"].copy(), table["std"].copy(), []
    for name, units in dict.fromkeys(zip(table["variable"], table["units"], strict=True)):
        wanted = fields.units[fields.names.index(name)]
        if units == "" or same_units(units, wanted):
            continue
        which = (table["variable"] == name) & (table["units"] == units)
        try:
            values[which] = converted(values[which], units, wanted, difference=anomaly)
            std[which] = converted(std[which], units, wanted, difference=True)
        except ValueError as error:
            mistakes.append(f"{name} {error} ({table.of_mistake(which)})")
    return values, std, mistakes


def _duplicates(table: ObservationTable, rows: list[Weights], channel: np.ndarray, dates: np.ndarray) -> list[str]:
    """Rows of the table that repeat an observation, which would count twice."""
    first: dict[tuple[object, ...], int] = {}
    again = np.zeros(len(rows), dtype=bool)
    for row, ((places, weights), k) in enumerate(zip(rows, channel, strict=True)):
        key = (k, table["kind"][row], dates[row], places.tobytes(), weights.round(9).tobytes())
        if len(places) and first.setdefault(key, row) != row:
            again[row] = True
    if not again.any():
        return []
    shown = table.of_mistake(again)
    return [f"{int(again.sum())} rows repeat the observation of an earlier row ({shown}); keep one of each, or their mean"]
