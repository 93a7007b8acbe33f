"""The folder of a run: its lock, its shards, the index that users open, and the statistics of its members."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..schema.layout import Layout
from .contents import Contents, as_it_is, harmed, read_samples, shown, stored_rows
from .errors import StoreError
from .files import write_text
from .index import Arrangement, write_copy
from .joining import MAX_SHARDS, join_shards
from .lock import STALE_HOURS, Lock
from .merging import many_shards, merge_alike, merge_into
from .opening import clear, indexed_ids, prepare, require_same_run, set_aside, tidy
from .packs.packing import Packs
from .packs.records import PLACE as PACKED
from .requested import absent, write_requested
from .settings import RUN_FILE, as_json, to_toml
from .shard import SHARDS, Shard, named_ids, scan, shard_path, write_samples
from .skeleton import FILTERS
from .statistics.parts import PLACE
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
    form: str = "hdf5"
    lock: Lock | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        problems = layout_problems(self.layout) + id_problems(self.samples, "samples")
        if self.shard_size < 1:
            problems.append(f"shard_size: {self.shard_size}; give at least one sample per shard")
        if self.compression not in FILTERS:
            problems.append(f"compression: {self.compression!r}; give one of {sorted(FILTERS)}")
        if self.form not in ("hdf5", "zarr"):
            problems.append(f"form: {self.form!r}; give hdf5 or zarr")
        if self.form == "zarr" and self.layout.topology is not None:
            problems.append('conformers are stored in HDF5, which other programs read; leave output.format = "zarr" out')
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
        `independent` (dotted names, which cover the keys below them) may differ from the earlier call. `overwrite` deletes the
        existing files; `options` are those of `attach`. Raises StoreError when the folder cannot be written, is locked by another
        run, or holds samples or single shards of another configuration, and names each key that differs.
        """
        store = cls.attach(folder, layout=layout, samples=samples, shard_size=shard_size, attributes=attributes, **options)
        text = to_toml(config)
        prepare(store.folder)
        lock = Lock.take(store.folder, stale_hours=stale_hours)
        try:
            if overwrite:
                clear(store.folder)
            found = Contents.of(store.folder)
            if found.recorded:
                require_same_run(
                    store.folder, found.recorded, config, text, independent=independent, layout=layout, attributes=attributes
                )
            drawn = found.drawn(members=store.members) | set(indexed_ids(store.folder, as_json(config), independent))
            store = replace(store, samples=tuple(sorted(drawn.union(store.samples))))
            found.require_form(store.folder, store.form, store.samples)
            tidy(store.folder, found.damaged)
            if store.packs is not None:
                store.packs.settle(len(store.samples))
            if store.tally is not None:
                store.tally.open(found.stored)
            if not found.recorded:
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
        form: str = "hdf5",
    ) -> Store:
        """Make a store for a process that writes shards into a folder that another one has locked; nothing is changed there."""
        ids = tuple(int(sample) for sample in samples)
        return cls(Path(folder).absolute(), layout, ids, shard_size, dict(attributes), compression, statistics, members, form)

    @classmethod
    def existing(cls, folder: str | os.PathLike[str], *, stale_hours: float = STALE_HOURS) -> Store:
        """Lock the folder of an earlier run as it is, to join or merge its shards without its model.

        Raises StoreError when there is no whole shard, or one of another run.
        """
        path = Path(folder).absolute()
        return replace(cls(**as_it_is(path)), lock=Lock.take(path, stale_hours=stale_hours))

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
        return read_samples(self.folder, self.layout, samples)

    def absent(self) -> tuple[int, ...]:
        """The ids among `samples` that are not drawn."""
        return absent(self.samples, self._drawn())

    def _drawn(self) -> set[int]:
        return Contents.of(self.folder).drawn(members=self.members)

    @cached_property
    def packs(self) -> Packs | None:
        """The writer of the Zarr store; None for a run in HDF5."""
        return Packs(self.folder, self.layout, self.attributes) if self.form == "zarr" else None

    @cached_property
    def tally(self) -> Tally | None:
        """The counter of members for statistics; None for a run without statistics."""
        return None if self.statistics is None else Tally(self.folder, self.statistics, self.attributes)

    def damaged(self, part: int = 0, parts: int = 1) -> list[Path]:
        """Read every value of every `parts`-th file, from number `part` on; the shards and parts that are damaged."""
        return harmed(self.folder, part, parts)

    def num_drawn(self, ids: Set[int]) -> int:
        """Count the samples of `ids` that are stored, by the names of the files: for progress, since nothing is read."""
        places = [SHARDS] + [PLACE] * (not self.members) + [PACKED] * (self.packs is not None)
        return len(ids & set[int]().union(*(named_ids(self.folder, place) for place in places)))

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
            raise StoreError(f"cannot store samples {shown(names)}: " + "; ".join(problems + more + yet_more))
        # counted first: a sample that is counted and not stored is drawn again, and not counted again
        if self.tally is not None:
            self.tally.add(names, arrays, costs)
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
        `keep_current` an index of exactly these shards is left unchanged, so that readers who have it open are not affected.
        With statistics their file is written too. Raises StoreError when there is nothing to join or shards do not match each
        other.
        """
        given: dict[str, Any] = {"copy": copy, "to": to, "max_shards": max_shards, "keep_current": keep_current}
        path = self.folder
        if self.tally is not None:
            path = self.tally.finish(stored_rows(self.folder, self.layout))
        if self.packs is not None and self.members:
            if copy:
                raise StoreError(f"{self.folder} is a Zarr store; `piadm export` makes one file of it")
            path = self.packs.finish(len(self.samples))
        elif self.members or copy or scan(self.folder)[0]:
            path = join_shards(self.folder, self.layout, self.attributes, self._write_copy, **given)
        return path

    def merge(self, max_shards: int = MAX_SHARDS) -> list[Shard]:
        """Merge all shards into at most `max_shards` larger ones and return those; the index has to be joined again.

        A merged shard is whole and has its name before the shards in it are deleted, so a kill loses nothing at any moment;
        at worst some samples are stored twice until the next merge. Shards that the index lists leave stubs: readers who have it
        open get errors from then on, not missing values, and must open the new one.
        """
        return merge_into(self.folder, scan(self.folder)[0], max_shards, self._write_copy)

    def compact(self, max_shards: int = MAX_SHARDS) -> None:
        """Merge shards of similar size when there are more than `max_shards`, also while other processes write further ones.

        A growing run thus stays at a few hundred files. The guarantees for kills and readers are those of `merge`. Raises
        StoreError.
        """
        if self.packs is not None:
            self.packs.move(len(self.samples))
        elif many_shards(self.folder, max_shards):
            merge_alike(self.folder, scan(self.folder)[0], self._write_copy)

    def _write_copy(self, path: Path, arrangement: Arrangement) -> Path:
        return write_copy(path, arrangement, layout=self.layout, attributes=self.attributes, compression=self.compression)
