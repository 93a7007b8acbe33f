"""statistics.h5: the statistics of a run as one file that xarray opens, written from its one part when the ranks have ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...schema.layout import Coordinate, Variable
from ..errors import StoreError
from ..files import whole_file
from ..shard import LIBVER, UNREADABLE, Shard, open_file, read_shard
from ..skeleton import attach, finish_file, set_attributes, write_skeleton
from .parts import PLACE, costs_of, read_state
from .recipe import Recipe
from .results import Result, results

STATISTICS = "statistics.h5"
SOURCE = "statistics_of"
ERROR = "largest_error"
PACKED = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}


def write_statistics(folder: Path, recipe: Recipe, part: Shard, attributes: Mapping[str, Any]) -> Path:
    """Write the statistics of the members of a part, one group after the other. Raises StoreError."""
    path = folder / STATISTICS
    ids, costs = costs_of([part])
    most = max((len(ids) + recipe.num_groups - 1) // recipe.num_groups, 1)
    counts = dict.fromkeys(range(recipe.num_groups), 0)
    with whole_file(path, needed=recipe.num_groups * recipe.bytes_of_group(most), libver=LIBVER) as (file, disk):
        for sample in ids:
            counts[recipe.group_of(sample)] += 1
        layout = replace(recipe.layout, variables=(), coordinates=_coordinates(recipe, max(counts.values())))
        write_skeleton(file, layout, ids, costs, dict(attributes) | {"title": _title(attributes, len(ids))})
        members = Coordinate(tuple(recipe.groups), np.array(list(counts.values()), np.int32).reshape(_sizes(recipe)))
        file.create_dataset("num_members", data=members.values)
        _finish(file, "num_members", members.dims, {"long_name": "members that are counted", "units": "1"})
        for group in range(recipe.num_groups):
            state = read_state(part.path, group)
            for variable in recipe.layout.variables if state is not None else ():
                assert state is not None
                for found in results(recipe, variable.name, group, state.count, state.arrays[variable.name]):
                    _put(file, recipe, variable, group, found)
            disk.check()
        file.attrs[SOURCE] = json.dumps(_source(recipe, part))
        finish_file(file, layout, len(ids))
    return path


def is_current(folder: Path, recipe: Recipe, part: Shard) -> bool:
    """Whether statistics.h5 is complete and was written from exactly this part, with the same kinds and levels."""
    try:
        found = read_shard(folder / STATISTICS)
        with open_file(found.path) as file:
            for name in file:
                file[name][...]  # against its checksum
            return bool(json.loads(file.attrs[SOURCE]) == _source(recipe, part))
    except (StoreError, *UNREADABLE):
        return False


def _source(recipe: Recipe, part: Shard) -> dict[str, Any]:
    return {
        "part": f"{PLACE}/{part.name}",
        "recipe": recipe.digest,
        "kinds": list(recipe.kinds),
        "quantiles": list(recipe.quantiles),
    }


def _title(attributes: Mapping[str, Any], members: int) -> str:
    return f"Statistics of {members} samples: {attributes.get('title', '')}"


def _sizes(recipe: Recipe) -> tuple[int, ...]:
    return tuple(len(coordinate.values) for coordinate in recipe.groups.values())


def _coordinates(recipe: Recipe, most: int) -> dict[str, Coordinate]:
    found = dict(recipe.layout.coordinates) | dict(recipe.groups)
    if "quantiles" in recipe.kinds:
        found["quantile"] = Coordinate(("quantile",), np.asarray(recipe.quantiles), {"standard_name": "quantile", "units": "1"})
    if "rank_histogram" in recipe.kinds:
        found["rank"] = Coordinate(("rank",), np.arange(most + 1, dtype=np.int32), {"long_name": "rank", "units": "1"})
    if "histogram" in recipe.kinds:
        number = len(next(iter(recipe.edges.values())))
        for name, size in (("bin", number + 1), ("edge", number)):
            found[name] = Coordinate((name,), np.arange(size, dtype=np.int32), {"long_name": f"number of the {name}"})
        for variable in recipe.layout.variables:
            attrs = {"long_name": f"edge of the bins of {variable.name}_histogram", "units": variable.attrs.get("units", "1")}
            found[f"{variable.name}_edge"] = Coordinate(("edge", *variable.dims), recipe.edges[variable.name], attrs)
    for variable in recipe.layout.variables if "exceedance" in recipe.kinds else ():
        if levels := recipe.thresholds.get(variable.name):
            name = f"{variable.name}_threshold"
            attrs = {"long_name": f"threshold of {variable.name}", "units": variable.attrs.get("units", "1")}
            found[name] = Coordinate((name,), np.asarray(levels, np.float64), attrs)
    return found


def _put(file: h5py.File, recipe: Recipe, variable: Variable, group: int, found: Result) -> None:
    """Write the result of one group; the dataset of all groups is made with the first."""
    dims = (*recipe.groups, *found.dims, *(variable.dims if found.on_grid else ()))
    if found.name not in file:
        kept = {key: value for key, value in variable.attrs.items() if key in ("units", "standard_name")}
        about = {"long_name": f"{variable.attrs.get('long_name', variable.name)}: {found.name.removeprefix(variable.name + '_')}"}
        shape = tuple(file[dim].shape[0] for dim in dims)
        chunks = (*(1 for _ in recipe.groups), *shape[len(recipe.groups) :])
        fill = np.nan if found.values.dtype.kind == "f" else 0
        file.create_dataset(found.name, shape, found.values.dtype, chunks=chunks, fillvalue=fill, **PACKED)
        _finish(file, found.name, dims, kept | about | found.attrs)
    target = file[found.name]
    place = np.unravel_index(group, _sizes(recipe)) if recipe.groups else ()
    # a group with fewer members than another has fewer values of the rank
    target[(*place, *(slice(0, size) for size in found.values.shape))] = found.values
    if found.largest_error is not None:
        target.attrs[ERROR] = max(float(target.attrs.get(ERROR, 0.0)), found.largest_error)


def _finish(file: h5py.File, name: str, dims: tuple[str, ...], attrs: Mapping[str, Any]) -> None:
    if file[name].dtype.kind == "f":
        file[name].attrs["_FillValue"] = np.float64(np.nan)
    set_attributes(file[name], attrs)
    attach(file, file[name], dims)
