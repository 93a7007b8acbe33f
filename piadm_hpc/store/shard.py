"""A shard: some samples, complete in one file of their own, named by the range of their ids."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..schema.layout import Layout
from .errors import DamagedShard, StoreError
from .files import whole_file
from .skeleton import FILTERS, chunk_shape, finish_file, finish_variable, rows_in_chunk, write_frame

SHARDS = "shards"
# checksums on the structure of the file as well; later formats are left marked as open when a writer is killed
LIBVER = ("v108", "v108")
UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, TypeError)


@dataclass(frozen=True)
class Shard:
    """What a whole shard says about itself."""

    path: Path
    ids: tuple[int, ...]
    num_bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    model_sha256: str

    @property
    def name(self) -> str:
        return self.path.name


def shard_name(ids: Sequence[int]) -> str:
    """The file name for rising `ids`: their range, and a digest of the list where ids are left out of the range."""
    name = f"samples_{ids[0]:08d}_{ids[-1] + 1:08d}"
    if len(ids) < ids[-1] + 1 - ids[0]:
        name += "_" + hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:8]
    return name + ".h5"


def write_samples(
    path: Path,
    *,
    layout: Layout,
    ids: Sequence[int],
    fields: Mapping[str, np.ndarray],
    per_sample: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    compression: str,
) -> Path:
    """Write checked float32 `fields` [S, *shape] as one whole file. Raises StoreError when it cannot be written."""
    needed = sum(array.nbytes for array in fields.values()) + sum(array.nbytes for array in per_sample.values())
    with whole_file(path, needed=needed, libver=LIBVER) as (file, disk):
        write_frame(file, layout, ids, per_sample, attributes)
        for variable in layout.variables:
            data = fields[variable.name]
            dataset = create_variable(file, layout, variable.name, data.shape, compression)
            for row in range(0, len(data), dataset.chunks[0]):
                dataset[row : row + dataset.chunks[0]] = data[row : row + dataset.chunks[0]]
                disk.check()
            finish_variable(file, layout, variable, dataset, int(np.isnan(data).sum()))
        finish_file(file, layout, len(ids))
    return path


def create_variable(file: h5py.File, layout: Layout, name: str, shape: tuple[int, ...], compression: str) -> h5py.Dataset:
    """An empty float32 dataset [S, *shape] in chunks of one field, or of several conformers."""
    chunks = (rows_in_chunk(layout, shape), *chunk_shape(shape[1:])[1:])
    return file.create_dataset(name, shape=shape, dtype="f4", chunks=chunks, fillvalue=np.nan, **FILTERS[compression])


def open_file(path: Path) -> h5py.File:
    """Open for reading, without a lock where there is none to be had: files here never change once they have their name.

    Within one process HDF5 wants the same choice from all who open a file, so its default comes first.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


def read_shard(path: Path) -> Shard:
    """Look into a shard without reading its fields.

    Raises DamagedShard when it is truncated, unfinished or not a shard; StoreError when this process may not read it.
    """
    try:
        with open_file(path) as file:
            return _described(path, file)
    except DamagedShard:
        raise
    except FileNotFoundError as error:
        raise DamagedShard(f"{path} is missing") from error
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno:
            raise StoreError(f"cannot read {path}: {os.strerror(error.errno)}; make it readable and start again") from error
        raise DamagedShard(f"{path} is damaged ({str(error).splitlines()[0]})") from error


def _described(path: Path, file: h5py.File) -> Shard:
    if not file.attrs.get("complete", 0):
        raise DamagedShard(f"{path} was never finished")
    ids = tuple(int(i) for i in file[str(file.attrs["sample_dim"])][...])
    shapes = {name: tuple(file[name].shape) for name in str(file.attrs["variables"]).split()}
    lengths = {len(ids), int(file.attrs["num_samples"])} | {shape[0] for shape in shapes.values()}
    if len(lengths) != 1 or list(ids) != sorted(set(ids)):
        raise DamagedShard(
            f"{path} is damaged (its fields and its list of samples differ in length, or the list is not in order)"
        )
    return Shard(path, ids, path.stat().st_size, shapes, str(file.attrs.get("model_sha256", "")))


def scan(folder: Path) -> tuple[list[Shard], list[Path]]:
    """The whole shards of a run in order of their first sample, and the files that are damaged. Raises StoreError."""
    whole: list[Shard] = []
    damaged: list[Path] = []
    for path in sorted((folder / SHARDS).glob("samples_*.h5")):
        try:
            whole.append(read_shard(path))
        except DamagedShard:
            damaged.append(path)
    return sorted(whole, key=lambda shard: (shard.ids, shard.name)), damaged


def drawn_samples(folder: Path) -> tuple[set[int], int]:
    """The ids that whole shards of a run hold, and how many of them are marked as not converged. Raises StoreError."""
    marked: dict[int, bool] = {}
    for shard in scan(folder)[0]:
        with open_file(shard.path) as file:
            bad = file["converged"][...] == 0 if "converged" in file else np.zeros(len(shard.ids), bool)
        marked |= dict(zip(shard.ids, bad.tolist(), strict=True))
    return set(marked), sum(marked.values())
