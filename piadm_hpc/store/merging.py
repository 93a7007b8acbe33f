"""Merging shards into larger ones, so that a run has few files, without losing a sample at any moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from .index import INDEX, Arrangement, arrange
from .retired import MERGED, listed, reason_of, retire
from .shard import SHARDS, Shard, read_shard, shard_path

TOGETHER = 8  # shards of similar size that a growing run merges into one: a sample is copied a few times only
LARGE_BYTES = 2**30

Copy = Callable[[Path, Arrangement], Path]
"""Writes the samples of an arrangement as one file, which appears whole or not at all."""


def merge_into(folder: Path, shards: list[Shard], number: int, copy: Copy) -> list[Shard]:
    """Merge `shards`, in order, into at most `number` larger ones, and return these. Raises StoreError."""
    known = listed(folder / INDEX)
    needed = _without_superfluous(shards, known)
    size = -(-len(needed) // number)
    groups = [needed[start : start + size] for start in range(0, len(needed), size)]
    return [group[0] if len(group) == 1 else _merged(folder, group, known, copy) for group in groups]


def many_shards(folder: Path, number: int) -> bool:
    """Whether a folder holds more shards than `number`, without the stubs of deleted ones."""
    files = list((folder / SHARDS).glob("samples_*.h5"))
    return len(files) > number and sum(not reason_of(path) for path in files) > number


def merge_alike(folder: Path, shards: list[Shard], copy: Copy) -> None:
    """Merge those of `shards` that are of similar size, TOGETHER at a time, up to LARGE_BYTES. Raises StoreError."""
    known = listed(folder / INDEX)
    tiers: dict[int, list[Shard]] = {}
    for shard in _without_superfluous(shards, known):
        tiers.setdefault(_tier(shard), []).append(shard)
    tier = 0
    while tier <= max(tiers, default=-1):
        alike = tiers.get(tier, [])
        for start in range(0, len(alike) - TOGETHER + 1, TOGETHER):
            group = alike[start : start + TOGETHER]
            if sum(shard.num_bytes for shard in group) <= LARGE_BYTES:
                merged = _merged(folder, group, known, copy)
                tiers.setdefault(_tier(merged), []).append(merged)
        tier += 1


def _without_superfluous(shards: list[Shard], known: set[str]) -> list[Shard]:
    """Delete the shards whose samples all lie in others; the rest."""
    used = {shard.name for shard in arrange(shards).shards}
    for shard in shards:
        if shard.name not in used:
            _delete(shard, known)
    return [shard for shard in shards if shard.name in used]


def _merged(folder: Path, group: list[Shard], known: set[str], copy: Copy) -> Shard:
    arrangement = arrange(group)
    path = copy(shard_path(folder, arrangement.ids), arrangement)
    for shard in group:
        _delete(shard, known)
    return read_shard(path)


def leave(folder: Path, shards: list[Shard]) -> None:
    """Delete shards whose samples are now in other shards; stubs remain for those that an index lists."""
    known = listed(folder / INDEX) if shards else set()
    for shard in shards:
        _delete(shard, known)


def _delete(shard: Shard, known: set[str]) -> None:
    """Delete a shard whose samples are in other shards; a stub remains if an index lists it."""
    if shard.name in known:
        retire(shard.path, shard.shapes, MERGED)
    else:
        shard.path.unlink()


def _tier(shard: Shard) -> int:
    """The power of TOGETHER below a shard's number of samples: shards of one tier are of similar size."""
    return int(math.log(len(shard.ids) + 0.5, TOGETHER))
