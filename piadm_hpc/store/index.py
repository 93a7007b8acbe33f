"""Many shards as one file: an index of virtual datasets, or an ordinary copy written shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..schema.layout import Layout, Variable
from .conventions import PER_SAMPLE
from .errors import StoreError
from .files import whole_file
from .shard import LIBVER, SHARDS, UNREADABLE, Shard, create_variable, first_line, open_file, read_shard
from .skeleton import finish_file, finish_variable, write_skeleton

INDEX = "samples.h5"


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` - 1 of a shard, which become the rows of the whole from `at` on."""

    shard: Shard
    start: int
    stop: int
    at: int

    @property
    def target(self) -> slice:
        return slice(self.at, self.at + self.stop - self.start)


@dataclass(frozen=True)
class Arrangement:
    """Which shard holds each row of a run, rows sorted by sample id; a sample that several shards hold is taken from one."""

    ids: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def shards(self) -> list[Shard]:
        """The shards in use, in the order in which their first rows appear."""
        return list({piece.shard.name: piece.shard for piece in self.pieces}.values())


def arrange(shards: Sequence[Shard]) -> Arrangement:
    """Assign every sample to a shard; long shards come first, so that few files are needed."""
    places: dict[int, tuple[Shard, int]] = {}
    for shard in sorted(shards, key=lambda s: (-len(s.ids), s.name)):
        for row, sample in enumerate(shard.ids):
            places.setdefault(sample, (shard, row))
    ids = tuple(sorted(places))
    pieces: list[Piece] = []
    for at, sample in enumerate(ids):
        shard, row = places[sample]
        last = pieces[-1] if pieces else None
        if last is not None and last.shard is shard and last.stop == row:
            pieces[-1] = Piece(shard, last.start, row + 1, last.at)
        else:
            pieces.append(Piece(shard, row, row + 1, at))
    return Arrangement(ids, tuple(pieces))


@contextmanager
def reading(shard: Shard) -> Iterator[h5py.File]:
    """Open a shard; errors of reading it become StoreErrors that say what to do."""
    try:
        with open_file(shard.path) as file:
            yield file
    except StoreError:
        raise
    except UNREADABLE as error:
        raise StoreError(
            f"cannot read {shard.path} ({first_line(error)}); delete it and run the same command again,"
            f" which draws only its {len(shard.ids)} samples"
        ) from error


def write_index(folder: Path, arrangement: Arrangement, *, layout: Layout, attributes: Mapping[str, Any]) -> Path:
    """Write the index: fields as virtual datasets over the shards, coordinates and costs as its own data.

    It names the shards by relative paths, so the folder may be moved. Raises StoreError.
    """
    path = folder / INDEX
    per_sample, missing = _collect(arrangement, layout)
    with whole_file(path, needed=sum(array.nbytes for array in per_sample.values()) + 2**20) as (file, _):
        write_skeleton(file, layout, arrangement.ids, per_sample, attributes)
        for variable in layout.variables:
            virtual = _virtual(arrangement, layout, variable)
            dataset = file.create_virtual_dataset(variable.name, virtual, fillvalue=np.nan)
            finish_variable(file, layout, variable, dataset, missing[variable.name])
        # one text rather than an attribute array, which is limited to 64 kB
        file.attrs["shards"] = json.dumps(_listing(arrangement))
        finish_file(file, layout, len(arrangement.ids))
    return path


def _listing(arrangement: Arrangement) -> dict[str, int]:
    """The shards of an index by relative path, with their sizes in bytes."""
    return {f"{SHARDS}/{shard.name}": shard.num_bytes for shard in arrangement.shards}


def is_current(folder: Path, arrangement: Arrangement) -> bool:
    """Whether the folder's index is readable and refers to exactly these rows of exactly these shards."""
    try:
        index = read_shard(folder / INDEX, index=True)
        with open_file(index.path) as file:
            for name in file:
                if isinstance(file[name], h5py.Dataset) and not file[name].is_virtual:
                    file[name][...]  # against its checksum
            return index.ids == arrangement.ids and json.loads(file.attrs["shards"]) == _listing(arrangement)
    except (StoreError, *UNREADABLE):
        return False


def _virtual(arrangement: Arrangement, layout: Layout, variable: Variable) -> h5py.VirtualLayout:
    shape = layout.shape(variable)
    virtual = h5py.VirtualLayout((len(arrangement.ids), *shape), "f4")
    for piece in arrangement.pieces:
        name = f"{SHARDS}/{piece.shard.name}"
        source = h5py.VirtualSource(name, variable.name, shape=(len(piece.shard.ids), *shape), dtype="f4")
        virtual[piece.target] = source[piece.start : piece.stop]
    return virtual


def write_copy(
    path: Path,
    arrangement: Arrangement,
    *,
    layout: Layout,
    attributes: Mapping[str, Any],
    compression: str,
    libver: tuple[str, str] | None = LIBVER,
) -> Path:
    """Write the samples of many shards as one ordinary file, a chunk at a time. Raises StoreError."""
    per_sample, missing = _collect(arrangement, layout)
    needed = sum(shard.num_bytes for shard in arrangement.shards)
    with whole_file(path, needed=needed, libver=libver) as (file, disk):
        write_skeleton(file, layout, arrangement.ids, per_sample, attributes)
        for variable in layout.variables:
            shape = (len(arrangement.ids), *layout.shape(variable))
            dataset = create_variable(file, layout, variable.name, shape, compression)
            for piece in arrangement.pieces:
                with reading(piece.shard) as source:
                    _copy_rows(source[variable.name], dataset, piece)
                disk.check()
            finish_variable(file, layout, variable, dataset, missing[variable.name])
        finish_file(file, layout, len(arrangement.ids))
    return path


def _copy_rows(source: h5py.Dataset, target: h5py.Dataset, piece: Piece) -> None:
    """Copy chunks without decompressing them where both files store them alike, which keeps their checksums valid."""
    if _storage(source) != _storage(target) or target.chunks[0] > 1:
        step = target.chunks[0]
        for row in range(piece.start, piece.stop, step):
            stop = min(row + step, piece.stop)
            target[piece.at + row - piece.start : piece.at + stop - piece.start] = source[row:stop]
        return
    corners = [range(0, size, step) for size, step in zip(source.shape[1:], source.chunks[1:], strict=True)]
    for row in range(piece.start, piece.stop):
        for corner in product(*corners):
            mask, packed = source.id.read_direct_chunk((row, *corner))
            target.id.write_direct_chunk((piece.at + row - piece.start, *corner), packed, mask)


def _storage(dataset: h5py.Dataset) -> tuple[Any, ...]:
    return dataset.chunks, dataset.dtype, dataset.compression, dataset.compression_opts, dataset.shuffle, dataset.fletcher32


def _collect(arrangement: Arrangement, layout: Layout) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Read the quantities recorded per sample, in the order of the index, and count the missing values of each variable."""
    arrays: dict[str, np.ndarray] = {}
    missing = dict.fromkeys((variable.name for variable in layout.variables), 0)
    names: set[str] | None = None
    for piece in arrangement.pieces:
        with reading(piece.shard) as file:
            found = set(file) & set(PER_SAMPLE)
            names = found if names is None else names
            _require_agreement(file, layout, piece.shard, names, found, arrays)
            for name in found:
                rows = file[name][piece.start : piece.stop]
                arrays.setdefault(name, np.zeros((len(arrangement.ids), *rows.shape[1:]), rows.dtype))[piece.target] = rows
            for variable in missing:
                missing[variable] += _missing_values(file[variable], piece)
    return arrays, missing


def _missing_values(dataset: h5py.Dataset, piece: Piece) -> int:
    total = int(dataset.attrs["num_missing"])
    if total == 0 or piece.stop - piece.start == dataset.shape[0]:
        return total
    return sum(int(np.isnan(dataset[row]).sum()) for row in range(piece.start, piece.stop))


def _require_agreement(
    file: h5py.File, layout: Layout, shard: Shard, names: set[str], found: set[str], arrays: Mapping[str, np.ndarray]
) -> None:
    """Raise StoreError, naming every difference, when a shard does not match the others."""
    wrong = []
    for variable in layout.variables:
        shape, want = shard.shapes.get(variable.name), (len(shard.ids), *layout.shape(variable))
        if shape != want:
            wrong.append(f"{variable.name} has shape {shape}, not {want}")
    if found != names:
        wrong.append(f"it records {sorted(found)} per sample, the others {sorted(names)}")
    for name in found & arrays.keys():
        if file[name].shape[1:] != arrays[name].shape[1:]:
            wrong.append(f"{name} has {file[name].shape[1:]} blocks, the others {arrays[name].shape[1:]}")
    if wrong:
        raise StoreError(
            f"{shard.path} does not fit the other shards: {'; '.join(wrong)}; "
            "it comes from another run: move it elsewhere, or start over in a new folder"
        )
