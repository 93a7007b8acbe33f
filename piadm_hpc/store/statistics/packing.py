"""A recipe as a file beside the parts, so that statistics.h5 is written again from them without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...schema.layout import Coordinate, Layout, Variable
from ..errors import StoreError
from ..files import whole_file
from ..settings import plain
from ..shard import LIBVER, UNREADABLE, first_line, open_file, require_own_data
from .parts import PLACE
from .recipe import Recipe

FILE = "recipe.h5"
ARRAYS = ("edges", "truth", "gaps", "added")
COORDINATES, GROUPS = "coordinates", "groups"


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the recipe of the parts below `folder`, complete or not at all, unless it exists. Raises StoreError."""
    words = _words(recipe)
    try:
        there = read_recipe(folder)
    except StoreError:
        there = None
    if there is not None and _words(there) == words:
        return
    (folder / PLACE).mkdir(exist_ok=True)
    tables = {name: getattr(recipe, name) for name in ARRAYS}
    needed = sum(array.nbytes for table in tables.values() for array in table.values()) + 2**16
    with whole_file(folder / PLACE / FILE, needed=needed, libver=LIBVER) as (file, _):
        file.attrs["words"] = words
        for name, table in tables.items():
            for variable, array in table.items():
                file.create_dataset(f"{name}/{variable}", data=array, chunks=(1, *array.shape[1:]), fletcher32=True)
        for place, coordinates in ((COORDINATES, recipe.layout.coordinates), (GROUPS, recipe.groups)):
            for number, (name, coordinate) in enumerate(coordinates.items()):
                _write_coordinate(file.create_group(f"{place}/{number}"), name, coordinate)


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe of the parts below `folder`; None where there are no statistics. Raises StoreError for a damaged file."""
    path = folder / PLACE / FILE
    if not path.exists():
        return None
    try:
        with open_file(path) as file:
            require_own_data(file)
            words = json.loads(file.attrs["words"])
            tables: dict[str, Any] = {
                name: {variable: array[...] for variable, array in file[name].items()} if name in file else {} for name in ARRAYS
            }
            variables = tuple(Variable(name, tuple(dims), attrs) for name, dims, attrs in words["variables"])
            layout = Layout(variables, _read_coordinates(file, COORDINATES), words["sample_dim"])
            recipe = Recipe(
                layout,
                tuple(words["kinds"]),
                tuple(words["quantiles"]),
                {name: tuple(levels) for name, levels in words["thresholds"].items()},
                exact=int(words["exact"]),
                groups=_read_coordinates(file, GROUPS),
                rows=tuple(words["rows"]),
                **tables,
            )
            if recipe.digest != words["digest"]:
                raise ValueError("its arrays are not those that it names")
            return recipe
    except (*UNREADABLE, AttributeError) as error:
        advice = "run the same `piadm sample` again, which writes it"
        raise StoreError(f"{path} is damaged ({first_line(error)}); {advice}") from error


def _words(recipe: Recipe) -> str:
    """Everything but the arrays, and the digest of those, as JSON."""
    variables = [[variable.name, variable.dims, dict(variable.attrs)] for variable in recipe.layout.variables]
    return json.dumps(
        {
            "digest": recipe.digest,
            "kinds": recipe.kinds,
            "quantiles": recipe.quantiles,
            "thresholds": dict(recipe.thresholds),
            "exact": recipe.exact,
            "rows": recipe.rows,
            "sample_dim": recipe.layout.sample_dim,
            "variables": variables,
        },
        default=plain,
    )


def _write_coordinate(target: h5py.Group, name: str, coordinate: Coordinate) -> None:
    array = np.asarray(coordinate.values)
    target.attrs["words"] = json.dumps([name, coordinate.dims, dict(coordinate.attrs)], default=plain)
    if array.dtype.kind in "SUO":
        target.create_dataset("values", data=array.astype(object), dtype=h5py.string_dtype())
    else:
        target.create_dataset("values", data=array)


def _read_coordinates(file: h5py.File, place: str) -> dict[str, Coordinate]:
    found: dict[str, Coordinate] = {}
    parts: Mapping[str, Any] = file.get(place) or {}
    for number in sorted(parts, key=int):
        name, dims, attrs = json.loads(parts[number].attrs["words"])
        values = parts[number]["values"]
        array = values.asstr()[...] if h5py.check_string_dtype(values.dtype) else values[...]
        found[name] = Coordinate(tuple(dims), np.asarray(array), attrs)
    return found
