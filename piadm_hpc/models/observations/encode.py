"""Observations of physical fields as linear observations of a model's states: operator, units, means and masks."""

from __future__ import annotations

import difflib
import logging

import numpy as np
import torch

from ...data.observations import ObservationTable
from ...data.units import converted, same_units
from ...gaussian.observed import LinearObservations
from ..model import Model
from .decoded import Fields
from .places import LARGEST_DEGREE, Grid, Weights
from .pointwise import PointwiseObservations, entry_values

log = logging.getLogger("piadm_hpc")

LARGEST_ROWS = 200_000_000
"""Largest number of entries of all operators together."""

COARSE = 1.5
"""A field counts as box means where its cells are this many times as wide as the model's."""


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

    `nearest` reads points at the nearest grid point instead of bilinearly. `cells` says what the values of a field are:
    "points", "boxes", or "auto", boxes where the field is coarser than the model. `removed` [channels, points] is the
    climatology that values still contain. With `dated` rows of other times are other observations. Values of a field where the
    model has no data are left out. Raises ValueError with all mistakes at once: unknown variables, units that do not convert,
    places outside the domain or without data, duplicates.
    """
    fields = Fields.of(model)
    mistakes = _misnamed(table, fields) + _misplaced(table, fields.grid)
    if mistakes:
        raise ValueError("; ".join(mistakes))
    boxes = cells == "boxes" or (cells == "auto" and _coarse(table, fields.grid))
    channels, wrong = fields.channels_of(table)
    mistakes += wrong
    raw = [_weights(table, row, fields.grid, nearest=nearest, boxes=boxes) for row in range(len(table))]
    if sum(len(places) * len(each) for (places, _), each in zip(raw, channels, strict=True)) > LARGEST_ROWS:
        raise ValueError(f"{len(table)} observations read more than {LARGEST_ROWS:,} grid points; thin them out")
    kept = [_with_data(one, each, fields.there) for one, each in zip(raw, channels, strict=True)]
    visible = np.array([len(places) > 0 for places, _ in kept])
    dark = ~visible & (table["kind"] != "cell") & np.array([len(each) > 0 for each in channels])
    if dark.any():
        mistakes.append(f"where the model has no data (masked): {table.of_mistake(dark)}")
    values, std, wrong = _in_units(table, fields, anomaly=removed is None and _anomaly(model))
    mistakes += wrong + _duplicates(table, kept, table.dates if dated else np.full(len(table), ""))
    if not mistakes and not visible.any():
        mistakes.append("none of the values lies where the model has data")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    if not visible.all():
        log.info(
            "observations: %d of %d values lie where the model has no data, and are left out", int((~visible).sum()), len(visible)
        )
    rows = [one for one, good in zip(kept, visible, strict=True) if good]
    offset = fields.offset if removed is None else fields.offset + np.nan_to_num(removed)
    used = {fields.labels[k] for each, good in zip(channels, visible, strict=True) if good for k in each}
    table = table.keep(visible)
    if not used & set(fields.transforms):
        return _linear(table, rows, fields.slope, offset, values[visible], std[visible]), table
    if removed is not None:
        raise ValueError("observations.absolute: the model transforms its fields; give values as it has them")
    # errors become one, so that variables of all units can be solved for together
    plain = _linear(table, rows, np.ones_like(fields.slope), 0 * offset, values[visible], std[visible])
    white = plain.scaled(1 / plain.std)
    return PointwiseObservations.of(white, entry_values(fields.labels, fields.slope, offset, fields.transforms)), table


def _linear(
    table: ObservationTable, rows: list[Weights], slope: np.ndarray, offset: np.ndarray, values: np.ndarray, std: np.ndarray
) -> LinearObservations:
    """Observations in units of states: every row's weights times the scales sum to one in size."""
    numbers, places, entries = values.copy(), [], []
    norm = np.empty(len(values))
    for row, (columns, weights) in enumerate(rows):
        scaled = weights * slope.flat[columns]
        norm[row] = np.abs(scaled).sum()
        numbers[row] -= weights @ offset.flat[columns]
        places.append(np.full(len(columns), row))
        entries.append(scaled / norm[row])
    columns = np.concatenate([columns for columns, _ in rows])
    index = torch.from_numpy(np.stack([np.concatenate(places), columns]).astype(np.int64))
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


def _with_data(raw: Weights, channels: np.ndarray, there: np.ndarray) -> Weights:
    """The weights [k] of a row in all its channels, by index into fields [channels, points] laid flat.

    Channels count alike. Points without data are left out, and the sum of each channel's weights stays what it was; where one of
    the channels has no data, nothing is left.
    """
    places, weights = raw
    columns, shares = [], []
    for k in channels:
        good = there[k, places]
        total = weights[good].sum()
        if not good.any():
            return places[:0], weights[:0]
        columns.append(k * there.shape[1] + places[good])
        shares.append(weights[good] * (weights.sum() / total if not good.all() and total > 0 else 1.0) / len(channels))
    return np.concatenate([places[:0], *columns]), np.concatenate([weights[:0], *shares])


def _in_units(table: ObservationTable, fields: Fields, *, anomaly: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Values and errors in the model's units; what does not convert is a mistake."""
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


def _duplicates(table: ObservationTable, rows: list[Weights], dates: np.ndarray) -> list[str]:
    """Rows of the table that observe the same, which would count twice."""
    first: dict[tuple[object, ...], int] = {}
    again = np.zeros(len(rows), dtype=bool)
    for row, (columns, weights) in enumerate(rows):
        key = (table["kind"][row], dates[row], columns.tobytes(), weights.round(9).tobytes())
        if len(columns) and first.setdefault(key, row) != row:
            again[row] = True
    if not again.any():
        return []
    shown = table.of_mistake(again)
    return [f"{int(again.sum())} rows repeat the observation of an earlier row ({shown}); keep one of each, or their mean"]
