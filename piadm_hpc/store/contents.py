"""The content of a run's folder: shards, parts of statistics, and packs of a Zarr store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..config.samples import INDEPENDENT_KEYS
from ..schema.layout import Layout
from .errors import StoreError
from .index import reading
from .integrity import wrong_values
from .opening import require_no_strangers
from .packs import records
from .packs.packing import Packs, Rows
from .packs.records import Pack, layout_of_record, whole_packs
from .requested import members_wanted, requested
from .settings import run_config
from .shard import Shard, scan
from .skeleton import read_attributes, read_layout
from .statistics.packing import read_recipe
from .statistics.parts import PLACE, wrong_part
from .statistics.recipe import Recipe
from .statistics.tally import Source


@dataclass(frozen=True)
class Contents:
    """The complete files of a run's folder, and those that are damaged."""

    shards: list[Shard]
    parts: list[Shard]
    packs: list[Pack]
    damaged: list[Path]

    @classmethod
    def of(cls, folder: Path) -> Contents:
        """Inspect the files of a folder. Raises StoreError for one that this process may not read."""
        (shards, damaged), (parts, wrong), (packs, lost) = scan(folder), scan(folder, PLACE), whole_packs(folder)
        return cls(shards, parts, packs, damaged + wrong + lost)

    @property
    def recorded(self) -> list[Shard]:
        """All files that record the run that wrote them."""
        return self.shards + self.parts + [pack.record for pack in self.packs]

    @property
    def stored(self) -> set[int]:
        """The ids of the samples that are stored."""
        files = self.shards + [pack.record for pack in self.packs]
        return {sample for each in files for sample in each.ids}

    def drawn(self, *, members: bool) -> set[int]:
        """The ids that are stored, or, without `members`, counted."""
        return self.stored if members else self.stored | {sample for part in self.parts for sample in part.ids}

    def require_form(self, folder: Path, form: str, samples: Sequence[int]) -> None:
        """Raise StoreError unless `samples` can be stored in a form, hdf5 or zarr, beside the existing files."""
        if form == "hdf5":
            if self.packs:
                raise StoreError(f'{folder} holds a Zarr store; set output.format = "zarr", or choose another folder')
            return
        records.require_zarr()
        if tuple(samples) != tuple(range(len(samples))):
            raise StoreError(f"{folder}: row r of a Zarr store is sample r; draw the samples from 0 on, without --only")


def harmed(folder: Path, part: int, parts: int) -> list[Path]:
    """Read every value of every `parts`-th file, from number `part` on; the shards, parts and records that are damaged."""
    found = Contents.of(folder)
    checks: list[tuple[Path, Any]] = [(each.path, lambda each=each: wrong_values(each)) for each in found.shards]
    checks += [(each.path, lambda each=each: wrong_part(each)) for each in found.parts]
    checks += [(each.record.path, lambda each=each: each.problem(folder, deep=True)) for each in found.packs]
    return [path for path, wrong in checks[part::parts] if wrong()]


def read_samples(folder: Path, layout: Layout, samples: Sequence[int]) -> dict[str, np.ndarray]:
    """Read the fields of some samples by variable, [samples, *shape]. Raises StoreError when one is absent."""
    wanted, rows = set(samples), dict[int, dict[str, np.ndarray]]()
    for ids, read in stored_rows(folder, layout):
        if here := [row for row, sample in enumerate(ids) if sample in wanted and sample not in rows]:
            fields, _ = read(here)
            rows |= {ids[row]: {name: array[k] for name, array in fields.items()} for k, row in enumerate(here)}
    if gone := [sample for sample in samples if sample not in rows]:
        raise StoreError(f"{folder} does not hold the samples {shown(tuple(gone))}; run the same command again")
    return {variable.name: np.stack([rows[sample][variable.name] for sample in samples]) for variable in layout.variables}


def stored_rows(folder: Path, layout: Layout) -> list[Source]:
    """The ids of every file of stored samples, and a function that reads some of its rows."""
    found = Contents.of(folder)
    rows: list[Source] = [(shard.ids, partial(rows_of_shard, shard, layout)) for shard in found.shards]
    return rows + [(pack.ids, partial(Packs(folder, layout, {}).rows_of, pack)) for pack in found.packs]


def rows_of_shard(shard: Shard, layout: Layout, rows: Sequence[int]) -> Rows:
    """Read some rows of a shard: fields by variable, and the quantities recorded per sample. Raises StoreError."""
    with reading(shard) as file:
        fields = {variable.name: file[variable.name][list(rows)] for variable in layout.variables}
        return fields, {name: file[name][list(rows)] for name in sorted(shard.recorded)}


def as_it_is(path: Path) -> dict[str, Any]:
    """The settings of the store in a run's folder, read without its model. Raises StoreError where there is none."""
    found = Contents.of(path)
    recipe = read_recipe(path) if found.parts else None
    if not found.recorded:
        raise StoreError(f"{path} holds no whole shard; give the folder of a run that has finished some samples")
    require_no_strangers(path, found.recorded, run_config(path) or found.recorded[0].config, INDEPENDENT_KEYS)
    with reading(found.recorded[0]) as file:
        attributes = read_attributes(file)
    members = members_wanted(path) or recipe is None
    ids = sorted(found.drawn(members=members).union(requested(path) or ()))
    return {
        "folder": path,
        "layout": _layout(path, found, recipe),
        "samples": tuple(ids),
        "shard_size": max(len(each.ids) for each in found.recorded),
        "attributes": attributes,
        "statistics": recipe,
        "members": members,
        "form": "zarr" if (path / records.PLACE).is_dir() else "hdf5",
    }


def _layout(path: Path, found: Contents, recipe: Recipe | None) -> Layout:
    """The layout of the samples, of the files that have one: a part of statistics names no fields. Raises StoreError."""
    if found.packs:
        return layout_of_record(found.packs[0].record.path)
    if found.shards:
        with reading(found.shards[0]) as file:
            return read_layout(file)
    if recipe is None:
        raise StoreError(f"{path} has lost the recipe of its statistics; run the same `piadm sample` again, which writes it")
    return recipe.layout


def shown(ids: tuple[int, ...]) -> str:
    """Ids in a message: the first and the last."""
    return f"{ids[0]} to {ids[-1]}" if len(ids) > 1 else f"{ids}"
