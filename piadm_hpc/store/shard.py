"""A shard: some samples, complete in one file of their own, named by the range of their ids."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..schema.layout import Layout
from .conventions import PER_SAMPLE
from .errors import DamagedShard, RetiredShard, StoreError
from .files import whole_file
from .retired import RETIRED, free_name, reason_of
from .skeleton import FILTERS, chunk_shape, finish_file, finish_variable, rows_in_chunk, write_skeleton

SHARDS = "shards"
# checksums on the structure of the file as well; later formats are left marked as open when a writer is killed
LIBVER = ("v108", "v108")
NAME = re.compile(r"samples_(\d{8,10})_(\d{8,10})(?:_([0-9a-f]{8}))?(?:_\d+)?\.h5")
UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, TypeError)


@dataclass(frozen=True)
class Shard:
    """The description of a complete shard.

    `config` is the configuration of the run that drew it, as JSON; `recorded` are the quantities per sample beside the fields.
    """

    path: Path
    ids: tuple[int, ...]
    num_bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    model_sha256: str
    config: str = ""
    recorded: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.path.name


def shard_name(ids: Sequence[int]) -> str:
    """The file name for rising `ids`: their range, and a digest of the list where ids are left out of the range."""
    name = f"samples_{ids[0]:08d}_{ids[-1] + 1:08d}"
    if len(ids) < ids[-1] + 1 - ids[0]:
        name += "_" + hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:8]
    return name + ".h5"


def shard_path(folder: Path, ids: Sequence[int]) -> Path:
    """The path for a run's shard of rising `ids`: a name that an overwritten run has used is not used again."""
    return free_name(folder / SHARDS / shard_name(ids))


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
        write_skeleton(file, layout, ids, per_sample, attributes)
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
    """Create an empty float32 dataset [S, *shape] in chunks of one field, or of several conformers."""
    chunks = (rows_in_chunk(layout, shape), *chunk_shape(shape[1:])[1:])
    return file.create_dataset(name, shape=shape, dtype="f4", chunks=chunks, fillvalue=np.nan, **FILTERS[compression])


def open_file(path: Path) -> h5py.File:
    """Open a file for reading, without a lock where the file system has none: a file never changes once it has its name.

    Within one process HDF5 requires all users of a file to lock it alike, so its default is tried first.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


def read_shard(path: Path, *, index: bool = False) -> Shard:
    """Read the description of a shard, without its fields; with `index` the file may also be an index.

    Raises DamagedShard when it is truncated, unfinished or not a shard, or when its data lie outside of it; RetiredShard for
    the stub of a deleted one; StoreError when this process may not read it.
    """
    try:
        with open_file(path) as file:
            return _described(path, file, index)
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise DamagedShard(f"{path} is missing") from error
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno:
            raise StoreError(f"cannot read {path}: {os.strerror(error.errno)}; make it readable and start again") from error
        raise DamagedShard(f"{path} is damaged ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind when it has none: HDF5 prints its whole stack of calls."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _described(path: Path, file: h5py.File, index: bool) -> Shard:
    if RETIRED in file.attrs:
        raise RetiredShard(f"{path} was {file.attrs[RETIRED]} after this index was written")
    if not file.attrs.get("complete", 0):
        raise DamagedShard(f"{path} was never finished")
    if elsewhere := list(_data_elsewhere(file, index)):
        raise DamagedShard(f"{path} is not a shard: {'; '.join(elsewhere)}, and links to other files are not followed")
    ids = tuple(int(i) for i in file[str(file.attrs["sample_dim"])][...])
    shapes = {name: tuple(file[name].shape) for name in str(file.attrs["variables"]).split()}
    lengths = {len(ids), int(file.attrs["num_samples"])} | {shape[0] for shape in shapes.values()}
    if len(lengths) != 1 or list(ids) != sorted(set(ids)):
        raise DamagedShard(
            f"{path} is damaged (its fields and its list of samples differ in length, or the list is not in order)"
        )
    if odd := _odd_dataset(file, len(ids)):
        raise DamagedShard(f"{path} is damaged ({odd})")
    model, config = (str(file.attrs.get(name, "")) for name in ("model_sha256", "piadm_config"))
    return Shard(path, ids, path.stat().st_size, shapes, model, config, frozenset(set(file) & set(PER_SAMPLE)))


def _odd_dataset(file: h5py.File, num_samples: int) -> str:
    """The problem with the first dataset that netCDF readers cannot handle; empty when there is none."""
    for name, found in file.items():
        if not isinstance(found, h5py.Dataset) or found.is_scale:
            continue
        if any(scale.name is None for dim in found.dims for scale in dim.values()):
            return f"a dimension of {name} is gone"
        if name in PER_SAMPLE and (found.dtype.kind not in "iuf" or found.shape[:1] != (num_samples,)):
            return f"{name} holds no number for each sample"
    return ""


def require_own_data(file: h5py.File) -> None:
    """Raise ValueError when a file leads to data in other files, which are not followed."""
    if elsewhere := list(_data_elsewhere(file, index=False)):
        raise ValueError(f"{'; '.join(elsewhere)}, and other files are not followed")


def _data_elsewhere(file: h5py.File, index: bool) -> Iterator[str]:
    """The parts of a file that lead to other files: links, external storage and, except in an index, virtual datasets."""
    names = str(file.attrs.get("variables", "")).split() if index and "shards" in file.attrs else []
    # fields may have further names, as in H5MD's groups
    virtual = [file[name] for name in names if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    links: dict[str, Any] = {}
    file.visititems_links(links.__setitem__)
    for name, link in links.items():
        if not isinstance(link, h5py.HardLink):
            yield f"{name} is a link"
        elif isinstance(found := file[name], h5py.Dataset):
            if found.external is not None:
                yield f"{name} is stored in another file"
            if found.is_virtual and found not in virtual:
                yield f"{name} is a virtual dataset"


def scan(folder: Path, place: str = SHARDS) -> tuple[list[Shard], list[Path]]:
    """The whole shards of a run in order of their first sample, and the files that are damaged. Raises StoreError.

    In another `place` of the folder, its parts of statistics.
    """
    whole: list[Shard] = []
    damaged: list[Path] = []
    for path in sorted((folder / place).glob("samples_*.h5")):
        try:
            whole.append(read_shard(path))
        except DamagedShard:
            damaged.append(path)
        except RetiredShard:
            continue
    return sorted(whole, key=lambda shard: (shard.ids, shard.name)), damaged


def named_ids(folder: Path, place: str = SHARDS) -> set[int]:
    """The ids in the names of a run's shards; a shard is opened once, and only when its name does not give all ids."""
    found: set[int] = set()
    for path in (folder / place).glob("samples_*.h5"):
        if name := NAME.fullmatch(path.name):
            first, stop, digest = name.groups()
            if not reason_of(path):
                found |= set(_ids_inside(path)) if digest else set(range(int(first), int(stop)))
    return found


@lru_cache(maxsize=4096)
def _ids_inside(path: Path) -> tuple[int, ...]:
    try:
        return read_shard(path).ids
    except StoreError:
        return ()


def drawn_samples(folder: Path, *places: str) -> tuple[set[int], int]:
    """The ids that whole shards of a run hold, and how many of them are marked as not converged. Raises StoreError.

    In other `places` of the folder too, if they are given.
    """
    marked: dict[int, bool] = {}
    for shard in (shard for place in (SHARDS, *places) for shard in scan(folder, place)[0]):
        with suppress(FileNotFoundError), open_file(shard.path) as file:  # a part may be merged meanwhile
            bad = file["converged"][...] == 0 if "converged" in file else np.zeros(len(shard.ids), bool)
            marked |= dict(zip(shard.ids, bad.tolist(), strict=True))
    return set(marked), sum(marked.values())
