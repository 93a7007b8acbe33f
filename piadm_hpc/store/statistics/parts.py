"""Parts: files with the ids of some members, their costs, and their sums by group.

A part is a shard without fields: it names its samples, its configuration and its model as shards do, is found by the same name,
and appears whole or not at all. Every array has a checksum.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...schema.layout import Layout
from ..conventions import PER_SAMPLE
from ..errors import StoreError
from ..files import whole_file
from ..shard import LIBVER, UNREADABLE, Shard, first_line, open_file, read_shard, shard_name
from ..skeleton import finish_file, write_skeleton
from .recipe import Recipe
from .state import State, merged

log = logging.getLogger("piadm_hpc")
PLACE = "statistics"
STATE = "state"
RECIPE = "recipe"


def write_part(
    folder: Path,
    recipe: Recipe,
    ids: Sequence[int],
    per_sample: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    state: Callable[[int], State],
) -> Path:
    """Write the part of rising `ids` below `folder`, one group's `state` after the other. Raises StoreError."""
    place = folder / PLACE
    place.mkdir(exist_ok=True)
    groups = sorted({recipe.group_of(sample) for sample in ids})
    needed = len(groups) * recipe.bytes_of_group(len(ids))
    with whole_file(place / shard_name(ids), needed=needed, libver=LIBVER) as (file, disk):
        write_skeleton(file, Layout((), {}, recipe.layout.sample_dim), ids, per_sample, attributes)
        file.attrs[RECIPE] = recipe.digest
        for group in groups:
            _write_state(file.create_group(f"{STATE}/{group}"), state(group))
            disk.check()
        finish_file(file, recipe.layout, len(ids))
    return place / shard_name(ids)


def _write_state(target: h5py.Group, state: State) -> None:
    target.attrs["count"] = state.count
    for name, arrays in state.arrays.items():
        for key, array in arrays.items():
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.dtype.kind == "u" else {}
            chunks = (1, *array.shape[1:]) if array.size else None
            target.create_dataset(f"{name}/{key}", data=array, chunks=chunks, fletcher32=array.size > 0, **packed)


def read_state(path: Path, group: int) -> State | None:
    """The state of a group in a part; None if the part has no member of it. Raises StoreError for a damaged part."""
    try:
        with open_file(path) as file:
            if (found := file[STATE].get(str(group))) is None:
                return None
            arrays = {name: {key: array[...] for key, array in part.items()} for name, part in found.items()}
            return State(int(found.attrs["count"]), arrays)
    except (*UNREADABLE, AttributeError) as error:
        raise StoreError(f"{path} is damaged ({first_line(error)}): start again, which draws its members once more") from error


def joined(recipe: Recipe, parts: Sequence[Shard], group: int, *more: State) -> State:
    """The state of a group's members in several parts and in `more`, at least one of which has some. Raises StoreError."""
    found = (each for part in parts if (each := read_state(part.path, group)) is not None)
    return reduce(partial(merged, recipe), [*more, *found])


def recipe_of(path: Path) -> str:
    """The digest of the recipe with which a part was counted."""
    with open_file(path) as file:
        return str(file.attrs.get(RECIPE, ""))


def costs_of(parts: Iterable[Shard]) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """The ids of several parts, rising, and the quantities recorded per sample, in that order. Raises StoreError."""
    rows: dict[str, list[np.ndarray]] = {}
    ids: list[int] = []
    for part in parts:
        with open_file(part.path) as file:
            for name in sorted(set(file) & set(PER_SAMPLE)):
                rows.setdefault(name, []).append(file[name][...])
        ids += part.ids
    order = np.argsort(ids, kind="stable")
    together = {name: np.concatenate(found) for name, found in rows.items()}
    whole = {name: array[order] for name, array in together.items() if len(array) == len(ids)}
    return tuple(sorted(ids)), whole


def merge(folder: Path, recipe: Recipe, parts: Sequence[Shard], attributes: Mapping[str, Any]) -> Shard:
    """Write one part in place of several that share no member. Raises StoreError.

    The new part is complete before the others are deleted: a kill leaves parts whose members are also in the new one; `settled`
    drops them.
    """
    ids, costs = costs_of(parts)
    path = write_part(folder, recipe, ids, costs, attributes, partial(joined, recipe, parts))
    for part in parts:
        part.path.unlink(missing_ok=True)
    return read_shard(path)


def settled(parts: Sequence[Shard]) -> list[Shard]:
    """Parts that share no member, the largest first; the others are deleted.

    A kill between a merge and the deletion of what was merged leaves parts whose members lie in the merged one. Of two parts
    that merely overlap, which only a copied file can cause, the larger is kept and the other set aside, since the sums of a part
    cannot be separated; members lost with it are drawn again.
    """
    kept: list[Shard] = []
    taken: set[int] = set()
    for part in sorted(parts, key=lambda each: (-len(each.ids), each.name)):
        if taken.isdisjoint(part.ids):
            kept.append(part)
            taken.update(part.ids)
        elif taken.issuperset(part.ids):
            part.path.unlink(missing_ok=True)
        else:
            log.warning("%s shares members with another part and is set aside; those it has alone are drawn again", part.path)
            os.replace(part.path, part.path.with_name(part.name + ".overlapping"))
    return kept


def wrong_part(part: Shard) -> list[str]:
    """Read every value of a part; one line when it is damaged."""
    problems: list[str] = []

    def read(_: str, found: h5py.HLObject) -> None:
        if isinstance(found, h5py.Dataset):
            found[...]

    try:
        with open_file(part.path) as file:
            file.visititems(read)
            members = sum(int(group.attrs["count"]) for group in file[STATE].values())
            if members != len(part.ids):
                problems.append(f"{PLACE}/{part.name} has sums of {members} members and names {len(part.ids)}")
    except (*UNREADABLE, AttributeError) as error:
        problems.append(f"{PLACE}/{part.name} is damaged ({first_line(error)})")
    return problems
