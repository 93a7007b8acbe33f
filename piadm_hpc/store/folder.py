"""The folder of a run: who may write there, what is already drawn, and the file that people open."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..schema.layout import Layout
from .conformers import with_topology
from .errors import StoreError
from .files import most_open_files, write_text
from .index import INDEX, arrange, write_copy, write_index
from .lock import Lock
from .opening import clear, prepare, require_same_run, tidy
from .settings import RUN_FILE, to_toml
from .shard import SHARDS, Shard, open_file, read_shard, scan, shard_name, write_samples
from .skeleton import FILTERS, read_attributes, read_layout
from .validate import as_fields, as_per_sample, id_problems, layout_problems

log = logging.getLogger(__name__)

MAX_SHARDS = 500
TOGETHER = 8  # shards of like size that a growing run merges into one, so that every sample is copied a few times only
LARGE_BYTES = 2**30
STALE_HOURS = 2.0


@dataclass(frozen=True, eq=False)
class Store:
    """The samples of a run on disk, as shards of at most `shard_size` of the ids `samples` in the folder `folder`.

    Made by `create` in one process, which holds the folder until `close`, and by `attach` in every other one that writes.
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
        """Take a folder for a run, new or with shards of the same run in it; for one process only.

        Keys of `config` that are in `independent` (dotted names; a name covers what lies below it) may differ from an earlier
        run. `overwrite` deletes what an earlier run left. Raises StoreError when the folder cannot be written, is held by
        another run, or holds samples of another configuration, naming each key that differs.
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
                require_same_run(store.folder, shards, text, independent=independent, layout=layout, attributes=attributes)
            tidy(store.folder, damaged)
            if not shards:
                write_text(store.folder / RUN_FILE, text)
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
        """A handle for a process that writes shards into a folder that another one has created: nothing is touched or locked."""
        ids = tuple(int(sample) for sample in samples)
        return cls(Path(folder).absolute(), layout, ids, shard_size, dict(attributes), compression)

    @classmethod
    def existing(cls, folder: str | os.PathLike[str], *, stale_hours: float = STALE_HOURS) -> Store:
        """Take the folder of an earlier run as it stands, to join or merge it without its model. Raises StoreError."""
        path = Path(folder).absolute()
        shards, _ = scan(path)
        if not shards:
            raise StoreError(f"{path} holds no whole shard; give the folder of a run that has finished some samples")
        with open_file(shards[0].path) as file:
            layout, attributes = read_layout(file), read_attributes(file)
        ids = sorted({sample for shard in shards for sample in shard.ids})
        shard_size = max(len(shard.ids) for shard in shards)
        store = cls(path, layout, tuple(ids), shard_size, attributes)
        return replace(store, lock=Lock.take(path, stale_hours=stale_hours))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder free for another run; nothing happens in a process that did not take it."""
        if self.lock is not None:
            self.lock.release()

    def heartbeat(self) -> None:
        """Say that this run is alive, at least once in `stale_hours`. Raises StoreError when another one took the folder."""
        if self.lock is not None:
            self.lock.heartbeat()

    def batches(self) -> list[tuple[int, ...]]:
        """All ids in shards of `shard_size`: the same whatever the ranks."""
        return [self.samples[i : i + self.shard_size] for i in range(0, len(self.samples), self.shard_size)]

    def missing(self) -> list[tuple[int, ...]]:
        """The ids that no whole shard holds yet, batch by batch; batches that are done are left out."""
        present = {sample for shard in scan(self.folder)[0] for sample in shard.ids}
        left = [tuple(sample for sample in batch if sample not in present) for batch in self.batches()]
        return [batch for batch in left if batch]

    def write(
        self,
        ids: Sequence[int],
        fields: Mapping[str, np.ndarray],
        per_sample: Mapping[str, np.ndarray],
        *,
        allow_nan: Mapping[str, np.ndarray] | None = None,
    ) -> Path:
        """Write samples as one shard, whole or not at all.

        `fields` [S, *shape] for every variable of the layout; `per_sample` [S] or [S, block] with names of PER_SAMPLE; NaN is
        taken only where `allow_nan` is true (broadcast against [S, *shape]). Raises StoreError with all mistakes, and when
        the disk is full.
        """
        names = tuple(int(sample) for sample in ids)
        problems = id_problems(names, "ids")
        arrays, more = as_fields(self.layout, names, fields, allow_nan)
        costs, yet_more = as_per_sample(names, per_sample)
        if problems + more + yet_more:
            raise StoreError(f"cannot store samples {_shown(names)}: " + "; ".join(problems + more + yet_more))
        return write_samples(
            self.folder / SHARDS / shard_name(names),
            layout=self.layout,
            ids=names,
            fields=arrays,
            per_sample=costs,
            attributes=self.attributes,
            compression=self.compression,
        )

    def join(self, copy: bool = False, *, to: str | os.PathLike[str] | None = None, max_shards: int = MAX_SHARDS) -> Path:
        """Make `samples.h5` over all whole shards, sorted by id: an index of virtual datasets, or with `copy` one ordinary file.

        An index over more than `max_shards` files, or than this process may open, is refused by merging them first. `to` is
        another place for a copy. Raises StoreError when there is nothing to join or shards do not fit together.
        """
        shards, damaged = scan(self.folder)
        for path in damaged:
            log.warning("leaving out %s, which is damaged; run the same command again to draw its samples anew", path)
        if not shards:
            raise StoreError(f"{self.folder} holds no whole shard, so there is nothing to join; run the sampler first")
        if to is not None and not copy:
            raise StoreError(f"an index must lie beside its shards, not at {to}; ask for a copy to make a file elsewhere")
        if copy:
            target = Path(to).absolute() if to is not None else self.folder / INDEX
            path = write_copy(
                target, arrange(shards), layout=self.layout, attributes=self.attributes, compression=self.compression
            )
            return with_topology(path, self.layout)
        limit = max(1, min(max_shards, most_open_files()))
        if len(arrange(shards).shards) > limit:
            # well below the limit, so that a growing run does not come here at every join
            shards = self._merge(shards, max(1, limit // 4))
        path = write_index(self.folder, arrange(shards), layout=self.layout, attributes=self.attributes)
        return with_topology(path, self.layout)

    def merge(self, max_shards: int = MAX_SHARDS) -> list[Shard]:
        """Turn many shards into at most `max_shards` larger ones, which are returned; the index has to be joined anew.

        A merged shard is whole and named before the shards in it are deleted, so a kill at any moment loses nothing; at
        worst some samples are then present twice, and the next merge deletes what is superfluous. Whoever has the old index
        open must open the new one.
        """
        return self._merge(scan(self.folder)[0], max_shards)

    def _merge(self, found: list[Shard], max_shards: int) -> list[Shard]:
        # an index over deleted shards would read as missing values, and tell nobody
        (self.folder / INDEX).unlink(missing_ok=True)
        shards = self._without_superfluous(found)
        size = -(-len(shards) // max_shards)
        merged: list[Shard] = []
        for start in range(0, len(shards), size):
            group = shards[start : start + size]
            merged.append(group[0] if len(group) == 1 else self._merged(group))
        return merged

    def compact(self, max_shards: int = MAX_SHARDS) -> None:
        """Merge shards of like size when there are more than `max_shards`, also while other processes write further ones.

        A growing run so stays a few hundred files. What holds for `merge` holds here. Raises StoreError.
        """
        if sum(1 for _ in (self.folder / SHARDS).glob("samples_*.h5")) <= max_shards:
            return
        (self.folder / INDEX).unlink(missing_ok=True)
        shards = self._without_superfluous(scan(self.folder)[0])
        sizes: dict[int, list[Shard]] = {}
        for shard in shards:
            sizes.setdefault(_tier(shard), []).append(shard)
        tier = 0
        while tier <= max(sizes):
            alike = sizes.get(tier, [])
            for start in range(0, len(alike) - TOGETHER + 1, TOGETHER):
                group = alike[start : start + TOGETHER]
                if sum(shard.num_bytes for shard in group) <= LARGE_BYTES:
                    merged = self._merged(group)
                    sizes.setdefault(_tier(merged), []).append(merged)
            tier += 1

    def _without_superfluous(self, shards: list[Shard]) -> list[Shard]:
        used = {shard.name for shard in arrange(shards).shards}
        for shard in shards:
            if shard.name not in used:
                shard.path.unlink()
        return [shard for shard in shards if shard.name in used]

    def _merged(self, group: list[Shard]) -> Shard:
        arrangement = arrange(group)
        path = self.folder / SHARDS / shard_name(arrangement.ids)
        write_copy(path, arrangement, layout=self.layout, attributes=self.attributes, compression=self.compression)
        for shard in group:
            shard.path.unlink()
        return read_shard(path)


def _tier(shard: Shard) -> int:
    """Shards of one tier hold about as many samples: at least TOGETHER to its power."""
    return int(math.log(len(shard.ids) + 0.5, TOGETHER))


def _shown(ids: tuple[int, ...]) -> str:
    return f"{ids[0]} to {ids[-1]}" if len(ids) > 1 else f"{ids}"
