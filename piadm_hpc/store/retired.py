"""Stubs of deleted shards, so that a reader who still has an old index open gets an error and not missing values.

HDF5 reads a virtual dataset whose source file is missing as missing values and reports nothing; it does report a source that
cannot be decompressed. A shard that an index lists is therefore replaced by a small file whose chunks cannot be decompressed.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import product
from pathlib import Path

import h5py

from .files import whole_file

RETIRED = "retired"
MERGED, OVERWRITTEN, DAMAGED = "merged", "overwritten", "damaged"
KEPT_DAYS = 30.0
# HDF5 allows 4 GiB
MAX_CHUNK_BYTES = 2**31


def retire(path: Path, shapes: Mapping[str, tuple[int, ...]], reason: str) -> None:
    """Replace the shard at `path` by a stub with float32 datasets of the same `shapes`, in one step. Raises StoreError."""
    with whole_file(path, needed=4096, libver=("v108", "v108")) as (file, _):
        file.attrs[RETIRED], file.attrs["complete"] = reason, 0
        for name, shape in shapes.items():
            dataset = file.create_dataset(name, shape=shape, dtype="f4", chunks=_chunk(shape), compression="gzip")
            for corner in _corners(dataset):
                dataset.id.write_direct_chunk(corner, b"retired")


def _chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    chunk = list(shape)
    while 4 * math.prod(chunk) > MAX_CHUNK_BYTES:
        longest = chunk.index(max(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


def _corners(dataset: h5py.Dataset) -> Iterator[tuple[int, ...]]:
    return product(*(range(0, size, step) for size, step in zip(dataset.shape, dataset.chunks, strict=True)))


def reason_of(path: Path) -> str:
    """The reason why the file at `path` was retired; empty for a shard, for any other file, and if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return _reason(path, found.st_ino, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4096)
def _reason(path: Path, inode: int, changed: int, size: int) -> str:
    """A file that keeps its inode, size and time of change is opened once."""
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get(RETIRED, ""))
    except (OSError, RuntimeError, ValueError):
        return ""


def free_name(path: Path) -> Path:
    """`path`, or the same name with a number while an overwritten run's stub has it.

    A name that two runs share would show the values of the second to readers of the first.
    """
    number = 0
    name = path
    while reason_of(name) == OVERWRITTEN:
        number += 1
        name = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return name


def listed(index: Path) -> set[str]:
    """The names of the shards that an index lists; nothing when there is no readable index."""
    try:
        with h5py.File(index, "r") as file:
            return {Path(name).name for name in json.loads(file.attrs.get("shards", "{}"))}
    except (OSError, RuntimeError, ValueError, TypeError):
        return set()


def indexed_shapes(index: Path, shard: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the fields that an index expects in one of its shards, by variable."""
    shapes: dict[str, tuple[int, ...]] = {}
    with suppress(OSError, RuntimeError, ValueError, KeyError), h5py.File(index, "r") as file:
        for name in str(file.attrs["variables"]).split():
            for source in file[name].virtual_sources():
                if Path(source.file_name).name == shard:
                    shapes[name] = tuple(source.src_space.shape)
    return shapes


def remove_old(paths: Iterable[Path]) -> None:
    """Delete the stubs among `paths` that are older than KEPT_DAYS."""
    for path in paths:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400 * KEPT_DAYS and reason_of(path):
                os.unlink(path)
