"""The folder of a run: its lock, its shards, the index that people open, and the statistics of its members."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..config.samples import INDEPENDENT_KEYS
from ..schema.layout import Layout
from .errors import StoreError
from .files import write_text
from .index import Arrangement, reading, write_copy
from .integrity import wrong_values
from .joining import MAX_SHARDS, join_shards
from .lock import STALE_HOURS, Lock
from .merging import many_shards, merge_alike, merge_into
from .opening import clear, indexed_ids, prepare, require_no_strangers, require_same_run, set_aside, tidy
from .requested import absent, members_wanted, requested, write_requested
from .settings import RUN_FILE, as_json, run_config, to_toml
from .shard import Shard, named_ids, scan, shard_path, write_samples
from .skeleton import FILTERS, read_attributes, read_layout
from .statistics.packing import read_recipe
from .statistics.parts import PLACE, wrong_part
from .statistics.recipe import Recipe
from .statistics.tally import Tally
from .validate import as_fields, as_per_sample, id_problems, layout_problems


@dataclass(frozen=True, eq=False)
class Store:
    """The samples of a run on disk: shards of at most `shard_size` samples, with the ids `samples`, below `folder`.

    With `statistics` members are counted as well, and without `members` they are counted and not stored. One process calls
    `create` and holds the folder until `close`; every other process that writes calls `attach`.
    """

    folder: Path
    layout: Layout
    samples: tuple[int, ...]
    shard_size: int
    attributes: Mapping[str, Any]
    compression: str = "zlib"
    statistics: Recipe | None = None
    members: bool = True
    lock: Lock | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        problems = layout_problems(self.layout) + id_problems(self.samples, "samples")
        if self.shard_size < 1:
            problems.append(f"shard_size: {self.shard_size}; give at least one sample per shard")
        if self.compression not in FILTERS:
            problems.append(f"compression: {self.compression!r}; give one of {sorted(FILTERS)}")
        if not self.members and self.statistics is None:
            problems.append("members: neither samples nor statistics would be stored; ask for one of them")
        if problems:
            raise StoreError("; ".join(problems))

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        layout: Layout,
        samples: Sequence[int],
        shard_size: int,
        config: Mapping[str, Any],
        attributes: Mapping[str, Any],
        independent: frozenset[str] = frozenset(),
        overwrite: bool = False,
        stale_hours: float = STALE_HOURS,
        **options: Any,
    ) -> Store:
        """Lock a folder for a run, new or continued; for one process only.

        The store then asks for `samples` and for those that earlier calls of this run have drawn. Keys of `config` in
        `independent` (dotted names, which cover the keys below them) may differ from the earlier call. `overwrite` deletes
        what is there; `options` are those of `attach`. Raises StoreError when the folder cannot be written, is held by another
        run, or holds samples or single shards of another configuration, and names each key that differs.
        """
        store = cls.attach(folder, layout=layout, samples=samples, shard_size=shard_size, attributes=attributes, **options)
        text = to_toml(config)
        prepare(store.folder)
        lock = Lock.take(store.folder, stale_hours=stale_hours)
        try:
            if overwrite:
                clear(store.folder)
            shards, damaged = scan(store.folder)
            parts, damaged_parts = scan(store.folder, PLACE)
            if shards or parts:
                require_same_run(
                    store.folder, shards + parts, config, text, independent=independent, layout=layout, attributes=attributes
                )
            drawn = {sample for shard in (shards if store.members else shards + parts) for sample in shard.ids}
            drawn |= set(indexed_ids(store.folder, as_json(config), independent))
            store = replace(store, samples=tuple(sorted(drawn.union(store.samples))))
            tidy(store.folder, damaged + damaged_parts)
            if store.tally is not None:
                store.tally.open({sample for shard in shards for sample in shard.ids})
            if not (shards or parts):
                write_text(store.folder / RUN_FILE, text)
            write_requested(store.folder, store.samples, members=store.members)
        except OSError as error:
            lock.release()
            raise StoreError(f"cannot use {store.folder}: {error.strerror or error}; choose another folder") from error
        except BaseException:
            lock.release()
            raise
        return replace(store, lock=lock)

    @classmethod
    def attach(
        cls,
        folder: str | os.PathLike[str],
        *,
        layout: Layout,
        samples: Sequence[int],
        shard_size: int,
        attributes: Mapping[str, Any],
        compression: str = "zlib",
        statistics: Recipe | None = None,
        members: bool = True,
    ) -> Store:
        """Make a store for a process that writes shards into a folder that another one has locked; nothing is changed there."""
        ids = tuple(int(sample) for sample in samples)
        return cls(Path(folder).absolute(), layout, ids, shard_size, dict(attributes), compression, statistics, members)

    @classmethod
    def existing(cls, folder: str | os.PathLike[str], *, stale_hours: float = STALE_HOURS) -> Store:
        """Lock the folder of an earlier run as it is, to join or merge its shards without its model.

        Raises StoreError when there is no whole shard, or one of another run.
        """
        path = Path(folder).absolute()
        shards, parts = scan(path)[0], scan(path, PLACE)[0]
        held, recipe = shards + parts, read_recipe(path) if parts else None
        if not held:
            raise StoreError(f"{path} holds no whole shard; give the folder of a run that has finished some samples")
        require_no_strangers(path, held, run_config(path) or held[0].config, INDEPENDENT_KEYS)
        with reading(held[0]) as file:
            layout = read_layout(file) if shards or recipe is None else recipe.layout
            attributes = read_attributes(file)
        members = members_wanted(path) or recipe is None
        drawn = {sample for shard in (shards if members else held) for sample in shard.ids}
        ids = sorted(drawn.union(requested(path) or ()))
        shard_size = max(len(shard.ids) for shard in held)
        store = cls(path, layout, tuple(ids), shard_size, attributes, statistics=recipe, members=members)
        return replace(store, lock=Lock.take(path, stale_hours=stale_hours))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for another run; this does nothing in a process that did not lock it."""
        if self.lock is not None:
            self.lock.release()

    def heartbeat(self) -> None:
        """Renew the lock, which must happen once in `stale_hours`. Raises StoreError when another run took the folder."""
        if self.lock is not None:
            self.lock.heartbeat()

    def batches(self) -> list[tuple[int, ...]]:
        """Split all ids into batches of `shard_size`; the split does not depend on the ranks."""
        return [self.samples[i : i + self.shard_size] for i in range(0, len(self.samples), self.shard_size)]

    def missing(self) -> list[tuple[int, ...]]:
        """The ids that are not drawn yet, batch by batch, without the batches that are done."""
        present = self._drawn()
        left = [tuple(sample for sample in batch if sample not in present) for batch in self.batches()]
        return [batch for batch in left if batch]

    def read(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """Read the fields of some samples by variable, [samples, *shape]. Raises StoreError when one is absent."""
        places = {sample: (shard, row) for shard in scan(self.folder)[0] for row, sample in enumerate(shard.ids)}
        if gone := [sample for sample in samples if sample not in places]:
            raise StoreError(f"{self.folder} does not hold the samples {_shown(tuple(gone))}; run the same command again")
        found: dict[str, list[np.ndarray]] = {variable.name: [] for variable in self.layout.variables}
        for sample in samples:
            shard, row = places[sample]
            with reading(shard) as file:
                for name, rows in found.items():
                    rows.append(file[name][row])
        return {name: np.stack(rows) for name, rows in found.items()}

    def absent(self) -> tuple[int, ...]:
        """The ids among `samples` that are not drawn."""
        return absent(self.samples, self._drawn())

    def _drawn(self) -> set[int]:
        """The ids that whole shards hold, or, where members are counted and not stored, whole parts."""
        found = scan(self.folder)[0] if self.members else scan(self.folder)[0] + scan(self.folder, PLACE)[0]
        return {sample for shard in found for sample in shard.ids}

    @cached_property
    def tally(self) -> Tally | None:
        """What counts the members; None for a run without statistics."""
        return None if self.statistics is None else Tally(self.folder, self.statistics, self.attributes)

    def damaged(self, part: int = 0, parts: int = 1) -> list[Path]:
        """Read every value of every `parts`-th file, from number `part` on; the shards and parts that are damaged."""
        found = scan(self.folder)[0] + scan(self.folder, PLACE)[0]
        return [each.path for each in found[part::parts] if (wrong_values(each) if each.shapes else wrong_part(each))]

    def num_drawn(self, ids: Set[int]) -> int:
        """Count the samples of `ids` that are stored, by the names of the files: for progress, since nothing is read."""
        return len(ids & (named_ids(self.folder) if self.members else named_ids(self.folder) | named_ids(self.folder, PLACE)))

    def set_aside(self, damaged: Sequence[Path]) -> None:
        """Rename damaged shards, so that their samples count as missing. Raises OSError."""
        set_aside(self.folder, damaged)

    def write(
        self,
        ids: Sequence[int],
        fields: Mapping[str, np.ndarray],
        per_sample: Mapping[str, np.ndarray],
        *,
        allow_nan: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write samples as one shard, which appears whole or not at all, and count them where there are statistics.

        `fields` [S, *shape] holds every variable of the layout, `per_sample` [S] or [S, block] any of PER_SAMPLE. NaN is
        accepted only where `allow_nan` is true (broadcast against [S, *shape]). Raises StoreError that lists all mistakes,
        and when the disk is full.
        """
        names = tuple(int(sample) for sample in ids)
        problems = id_problems(names, "ids")
        arrays, more = as_fields(self.layout, names, fields, allow_nan)
        costs, yet_more = as_per_sample(names, per_sample)
        if problems + more + yet_more:
            raise StoreError(f"cannot store samples {_shown(names)}: " + "; ".join(problems + more + yet_more))
        if self.members:
            write_samples(
                shard_path(self.folder, names),
                layout=self.layout,
                ids=names,
                fields=arrays,
                per_sample=costs,
                attributes=self.attributes,
                compression=self.compression,
            )
        if self.tally is not None:
            self.tally.add(names, arrays, costs)

    def join(
        self,
        copy: bool = False,
        *,
        to: str | os.PathLike[str] | None = None,
        max_shards: int = MAX_SHARDS,
        keep_current: bool = False,
    ) -> Path:
        """Write `samples.h5` over all whole shards, sorted by id: an index, or with `copy` one ordinary file at `to`.

        Shards are merged first when they are more than `max_shards`, or more files than this process may open. With
        `keep_current` an index of just these shards is left as it is, and with it whoever has it open. With statistics their
        file is written too. Raises StoreError when there is nothing to join or shards do not match each other.
        """
        given: dict[str, Any] = {"copy": copy, "to": to, "max_shards": max_shards, "keep_current": keep_current}
        path = self.folder
        if self.members or copy or scan(self.folder)[0]:
            path = join_shards(self.folder, self.layout, self.attributes, self._write_copy, **given)
        if self.tally is not None:
            written = self.tally.finish(scan(self.folder)[0])
            path = path if self.members else written
        return path

    def merge(self, max_shards: int = MAX_SHARDS) -> list[Shard]:
        """Merge all shards into at most `max_shards` larger ones and return those; the index has to be joined again.

        A merged shard is whole and has its name before the shards in it are deleted, so a kill loses nothing at any moment;
        at worst some samples are stored twice until the next merge. Shards that the index lists leave stubs: whoever has it
        open gets errors from then on, not missing values, and must open the new one.
        """
        return merge_into(self.folder, scan(self.folder)[0], max_shards, self._write_copy)

    def compact(self, max_shards: int = MAX_SHARDS) -> None:
        """Merge shards of similar size when there are more than `max_shards`, also while other processes write further ones.

        A growing run thus stays a few hundred files. Kills and readers are dealt with as in `merge`. Raises StoreError.
        """
        if many_shards(self.folder, max_shards):
            merge_alike(self.folder, scan(self.folder)[0], self._write_copy)

    def _write_copy(self, path: Path, arrangement: Arrangement) -> Path:
        return write_copy(path, arrangement, layout=self.layout, attributes=self.attributes, compression=self.compression)


def _shown(ids: tuple[int, ...]) -> str:
    return f"{ids[0]} to {ids[-1]}" if len(ids) > 1 else f"{ids}"
