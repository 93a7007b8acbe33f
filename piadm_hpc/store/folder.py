"""The folder of a run: its lock, its shards, and the index that people open."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..config.samples import INDEPENDENT_KEYS
from ..schema.layout import Layout
from .conformers import with_topology
from .errors import StoreError
from .files import most_open_files, write_text
from .index import INDEX, Arrangement, arrange, is_current, reading, write_copy, write_index
from .integrity import wrong_values
from .lock import STALE_HOURS, Lock
from .merging import merge_alike, merge_into
from .opening import clear, indexed_ids, prepare, require_no_strangers, require_same_run, set_aside, tidy
from .requested import absent, requested, write_requested
from .retired import reason_of
from .settings import RUN_FILE, as_json, run_config, to_toml
from .shard import SHARDS, Shard, named_ids, scan, shard_path, write_samples
from .skeleton import FILTERS, read_attributes, read_layout
from .validate import as_fields, as_per_sample, id_problems, layout_problems

log = logging.getLogger(__name__)

MAX_SHARDS = 500


@dataclass(frozen=True, eq=False)
class Store:
    """The samples of a run on disk: shards of at most `shard_size` samples, with the ids `samples`, below `folder`.

    One process calls `create` and holds the folder until `close`; every other process that writes calls `attach`.
    """

    folder: Path
    layout: Layout
    samples: tuple[int, ...]
    shard_size: int
    attributes: Mapping[str, Any]
    compression: str = "zlib"
    lock: Lock | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        problems = layout_problems(self.layout) + id_problems(self.samples, "samples")
        if self.shard_size < 1:
            problems.append(f"shard_size: {self.shard_size}; give at least one sample per shard")
        if self.compression not in FILTERS:
            problems.append(f"compression: {self.compression!r}; give one of {sorted(FILTERS)}")
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
        compression: str = "zlib",
        stale_hours: float = STALE_HOURS,
    ) -> Store:
        """Lock a folder for a run, new or continued; for one process only.

        The store then asks for `samples` and for those that earlier calls of this run have drawn. Keys of `config` in
        `independent` (dotted names, which cover the keys below them) may differ from the earlier call. `overwrite` deletes
        what is there. Raises StoreError when the folder cannot be written, is held by another run, or holds samples or single
        shards of another configuration, and names each key that differs.
        """
        store = cls.attach(
            folder, layout=layout, samples=samples, shard_size=shard_size, attributes=attributes, compression=compression
        )
        text = to_toml(config)
        prepare(store.folder)
        lock = Lock.take(store.folder, stale_hours=stale_hours)
        try:
            if overwrite:
                clear(store.folder)
            shards, damaged = scan(store.folder)
            if shards:
                require_same_run(
                    store.folder, shards, config, text, independent=independent, layout=layout, attributes=attributes
                )
            drawn = {sample for shard in shards for sample in shard.ids}
            drawn |= set(indexed_ids(store.folder, as_json(config), independent))
            store = replace(store, samples=tuple(sorted(drawn.union(store.samples))))
            tidy(store.folder, damaged)
            if not shards:
                write_text(store.folder / RUN_FILE, text)
            write_requested(store.folder, store.samples)
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
    ) -> Store:
        """Make a store for a process that writes shards into a folder that another one has locked; nothing is changed there."""
        ids = tuple(int(sample) for sample in samples)
        return cls(Path(folder).absolute(), layout, ids, shard_size, dict(attributes), compression)

    @classmethod
    def existing(cls, folder: str | os.PathLike[str], *, stale_hours: float = STALE_HOURS) -> Store:
        """Lock the folder of an earlier run as it is, to join or merge its shards without its model.

        Raises StoreError when there is no whole shard, or one of another run.
        """
        path = Path(folder).absolute()
        shards, _ = scan(path)
        if not shards:
            raise StoreError(f"{path} holds no whole shard; give the folder of a run that has finished some samples")
        require_no_strangers(path, shards, run_config(path) or shards[0].config, INDEPENDENT_KEYS)
        with reading(shards[0]) as file:
            layout, attributes = read_layout(file), read_attributes(file)
        drawn = {sample for shard in shards for sample in shard.ids}
        ids = sorted(drawn.union(requested(path) or ()))
        shard_size = max(len(shard.ids) for shard in shards)
        store = cls(path, layout, tuple(ids), shard_size, attributes)
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
        """The ids that no whole shard holds yet, batch by batch, without the batches that are done."""
        present = {sample for shard in scan(self.folder)[0] for sample in shard.ids}
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
        """The ids among `samples` that no whole shard holds."""
        return absent(self.samples, (sample for shard in scan(self.folder)[0] for sample in shard.ids))

    def damaged(self, part: int = 0, parts: int = 1) -> list[Path]:
        """Read every value of every `parts`-th shard, from number `part` on; the shards that are damaged."""
        return [shard.path for shard in scan(self.folder)[0][part::parts] if wrong_values(shard)]

    def num_drawn(self, ids: Set[int]) -> int:
        """Count the samples of `ids` that are stored, by the names of the files: for progress, since nothing is read."""
        return len(ids & named_ids(self.folder))

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
    ) -> Path:
        """Write samples as one shard, which appears whole or not at all.

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
        return write_samples(
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
        `keep_current` an index of just these shards is left as it is, and with it whoever has it open. Raises StoreError when
        there is nothing to join or shards do not match each other.
        """
        shards, damaged = scan(self.folder)
        for path in damaged:
            log.warning("leaving out %s, which is damaged; run the same command again to draw its samples once more", path)
        if not shards:
            raise StoreError(f"{self.folder} holds no whole shard, so there is nothing to join; run the sampler first")
        if to is not None and not copy:
            raise StoreError(f"an index must lie beside its shards, not at {to}; ask for a copy to make a file elsewhere")
        if copy:
            target = Path(to).absolute() if to is not None else self.folder / INDEX
            return with_topology(self._write_copy(target, arrange(shards)), self.layout)
        limit = max(1, min(max_shards, most_open_files()))
        if len(arrange(shards).shards) > limit:
            # well below the limit, so that a growing run does not come here at every join
            shards = self._merge(shards, max(1, limit // 4))
        arrangement, path = arrange(shards), self.folder / INDEX
        if not (keep_current and is_current(self.folder, arrangement)):
            path = write_index(self.folder, arrangement, layout=self.layout, attributes=self.attributes)
        return with_topology(path, self.layout)

    def merge(self, max_shards: int = MAX_SHARDS) -> list[Shard]:
        """Merge all shards into at most `max_shards` larger ones and return those; the index has to be joined again.

        A merged shard is whole and has its name before the shards in it are deleted, so a kill loses nothing at any moment;
        at worst some samples are stored twice until the next merge. Shards that the index lists leave stubs: whoever has it
        open gets errors from then on, not missing values, and must open the new one.
        """
        return self._merge(scan(self.folder)[0], max_shards)

    def compact(self, max_shards: int = MAX_SHARDS) -> None:
        """Merge shards of similar size when there are more than `max_shards`, also while other processes write further ones.

        A growing run thus stays a few hundred files. Kills and readers are dealt with as in `merge`. Raises StoreError.
        """
        files = list((self.folder / SHARDS).glob("samples_*.h5"))
        if len(files) > max_shards and sum(not reason_of(path) for path in files) > max_shards:
            merge_alike(self.folder, scan(self.folder)[0], self._write_copy)

    def _merge(self, shards: list[Shard], max_shards: int) -> list[Shard]:
        return merge_into(self.folder, shards, max_shards, self._write_copy)

    def _write_copy(self, path: Path, arrangement: Arrangement) -> Path:
        return write_copy(path, arrangement, layout=self.layout, attributes=self.attributes, compression=self.compression)


def _shown(ids: tuple[int, ...]) -> str:
    return f"{ids[0]} to {ids[-1]}" if len(ids) > 1 else f"{ids}"
