"""The maps in a data set of samples: one for each variable, or for each of its levels, months, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import xarray as xr

from ..schema.layout import STEP, Variable
from .grids import MapGrid, grid_of
from .slices import short, slice_name

MAX_BYTES = 2**30
"""Bytes of the fields of one map; in larger runs evenly spaced samples are scored."""


class Described(Protocol):
    """A variable with the dimensions of one sample of it."""

    @property
    def name(self) -> str: ...

    @property
    def dims(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Plane:
    """One map of a variable over the dimensions `dims` of a sample, at the positions `at` along those beyond the map.

    `where` has the coordinates of these positions. `name` is unique: the variable's own, or for one of several maps with its
    position, `ta_plev850`, as in `slices`. `number` counts the maps of all variables, in the order of the variables and
    their dimensions. The steps of a sequence are no part of `dims`: they are further samples.
    """

    name: str
    title: str
    variable: str
    dims: tuple[str, ...]
    at: Mapping[str, int]
    where: Mapping[str, Any]
    grid: MapGrid
    attrs: Mapping[Any, Any]
    number: int

    @property
    def units(self) -> str:
        return str(self.attrs.get("units", "1"))

    @property
    def file_name(self) -> str:
        """The name in a form that every file system accepts."""
        return "".join(c if c.isalnum() or c in "._-" else "-" for c in self.name)

    def samples(self, dataset: xr.Dataset, most: int | None = None) -> np.ndarray:
        """Fields [n, rows, columns] of all samples, or evenly spaced ones where there are more than `most`.

        Raises ValueError for a dataset that lacks the variable or some of its dimensions, and for one field without samples.
        """
        if self.variable not in dataset:
            raise ValueError(f"no variable {self.variable}; there are {', '.join(map(str, dataset.data_vars))}")
        array = dataset[self.variable]
        others = [dim for dim in array.dims if dim not in self.dims]
        if len(array.dims) - len(others) != len(self.dims) or not others:
            raise ValueError(f"{self.variable} has dimensions {array.dims}; scores need samples over {self.dims}")
        stacked = array.isel(self.at).transpose(*others, *self.grid.dims)
        if len(others) > 1:
            stacked = stacked.stack(all_samples=others).transpose("all_samples", *self.grid.dims)
        chosen = evenly_spaced(len(stacked), self.most if most is None else most)
        values = stacked.isel({stacked.dims[0]: chosen}).values
        return np.asarray(values.reshape(len(values), *self.grid.shape))

    @property
    def most(self) -> int:
        """The largest number of fields that are scored."""
        return max(2, MAX_BYTES // (8 * int(np.prod(self.grid.shape))))


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Positions of at most `most` of `count` items, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def variables_in(dataset: xr.Dataset) -> tuple[Variable, ...]:
    """The variables that samples of a run consist of, with the dimensions of one sample; none of conformers."""
    if "topology" in dataset:
        return ()
    sample_dim = str(dataset.attrs["sample_dim"])
    names = str(dataset.attrs["variables"]).split()
    return tuple(Variable(name, tuple(str(dim) for dim in dataset[name].dims if dim != sample_dim)) for name in names)


def planes_of(dataset: xr.Dataset, variables: Sequence[Described]) -> tuple[list[Plane], list[str]]:
    """All maps of some variables, and a line for each variable that has none; the steps of sequences are further samples."""
    planes: list[Plane] = []
    without: list[str] = []
    for variable in variables:
        array, dims = dataset[variable.name], tuple(dim for dim in variable.dims if dim != STEP)
        samples = [str(dim) for dim in array.dims if dim not in dims]
        try:
            grid = grid_of(dataset, variable.name, samples)
        except ValueError as error:
            without.append(str(error))
            continue
        further = [dim for dim in dims if dim not in grid.dims]
        for place in product(*(range(array.sizes[dim]) for dim in further)):
            at = dict(zip(further, place, strict=True))
            where = {dim: array[dim].values[k] if dim in array.coords else k for dim, k in at.items()}
            name = slice_name(variable.name, where)
            words = [f"{dim} {short(value)} {_units(array, dim)}".strip() for dim, value in where.items()]
            title = ", ".join([str(array.attrs.get("long_name") or variable.name), *words])
            planes.append(Plane(name, title, variable.name, dims, at, where, grid, array.attrs, len(planes)))
    return planes, without


def chosen(planes: Sequence[Plane], select: Mapping[str, str], most: int) -> tuple[list[Plane], list[str]]:
    """The maps at the selected places, at most `most` of every variable, and a line for each variable with maps left out.

    `select` has values by dimension, of which the nearest is taken. Raises ValueError for a dimension that no variable has.
    """
    known = {dim for plane in planes for dim in plane.at}
    if unknown := sorted(set(select) - known):
        there = f"there are {', '.join(sorted(known))}" if known else "every variable is one map"
        raise ValueError(f"--select {', '.join(unknown)}: no such dimension besides those of maps; {there}")
    found: list[Plane] = []
    notes = []
    for name in dict.fromkeys(plane.variable for plane in planes):
        own = [plane for plane in planes if plane.variable == name]
        for dim, text in select.items():
            own = _nearest(own, dim, text) if dim in own[0].at else own
        kept = [own[k] for k in evenly_spaced(len(own), most)]
        found += kept
        if len(kept) < len(own):
            notes.append(f"{len(kept)} of the {len(own)} maps of {name}; choose others with --select DIM=VALUE")
    return found, notes


def _nearest(planes: Sequence[Plane], dim: str, text: str) -> list[Plane]:
    """The maps nearest to a value along a dimension; raises ValueError for text where the coordinate has numbers."""
    values = [plane.where[dim] for plane in planes]
    if any(short(value) == text for value in values):
        return [plane for plane, value in zip(planes, values, strict=True) if short(value) == text]
    try:
        apart = [abs(float(value) - float(text)) for value in values]
    except (TypeError, ValueError):
        listed = ", ".join(dict.fromkeys(map(short, values)))
        raise ValueError(f"--select {dim}={text}: no such value; there are {listed}") from None
    return [plane for plane, distance in zip(planes, apart, strict=True) if distance == min(apart)]


def _units(array: xr.DataArray, dim: str) -> str:
    return str(array[dim].attrs.get("units", "")) if dim in array.coords else ""
