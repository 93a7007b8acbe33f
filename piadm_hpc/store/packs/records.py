"""Packs: the Zarr shards of some samples, and the record that describes them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...schema.layout import Layout, Variable
from ..errors import StoreError
from ..files import PARTIAL, digest, sync, sync_folder, whole_file
from ..settings import plain
from ..shard import LIBVER, UNREADABLE, Shard, first_line, open_file, read_shard, scan, shard_name
from ..skeleton import finish_file, read_layout, write_skeleton

PLACE, ZARR = "packed", "samples.zarr"
PACKS = "packs"
MOST_BYTES, MOST_ROWS = 2**25, 256  # of a Zarr shard, which is written from memory


@dataclass(frozen=True)
class Pack:
    """A record and the Zarr shards that it names: for each variable a file, its size and its checksum."""

    record: Shard
    files: Mapping[str, tuple[str, int, str]]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.record.ids

    def problem(self, folder: Path, *, deep: bool = False) -> str:
        """The problem with the Zarr shards, empty if they are complete; `deep` reads every byte."""
        for name, size, known in self.files.values():
            path = folder / ZARR / name
            if path.is_symlink() or not path.is_file():
                return f"{ZARR}/{name} is missing"
            if path.stat().st_size != size:
                return f"{ZARR}/{name} has {path.stat().st_size} bytes, its record knows {size}"
            if deep and digest(path) != known:
                return f"{ZARR}/{name} is damaged: its checksum differs"
        return ""


def require_zarr() -> None:
    """Raise StoreError where the zarr package is not installed."""
    try:
        import zarr  # noqa: F401
    except ImportError:
        raise StoreError("output.format = \"zarr\" needs zarr: pip install 'piadm_hpc[zarr]'") from None


def rows_in_shard(layout: Layout) -> int:
    """The number of samples in a Zarr shard: as many as fit into 32 MB, at most MOST_ROWS."""
    largest = max(4 * int(np.prod(layout.shape(variable), dtype=np.int64)) for variable in layout.variables)
    return max(1, min(MOST_ROWS, MOST_BYTES // largest))


def bytes_of_pack(layout: Layout) -> int:
    """Bytes in memory while a pack is written: its samples, and one encoded variable of them."""
    sizes = [4 * int(np.prod(layout.shape(variable), dtype=np.int64)) for variable in layout.variables]
    return rows_in_shard(layout) * (sum(sizes) + 2 * max(sizes))


def write_pack(
    folder: Path,
    layout: Layout,
    ids: Sequence[int],
    fields: Mapping[str, np.ndarray],
    per_sample: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
) -> Pack:
    """Write rising `ids`, which share a Zarr shard, with float32 `fields` [S, *shape]. Raises StoreError."""
    rows = rows_in_shard(layout)
    files = {
        variable.name: _write_shard(folder / ZARR, layout, variable, ids[0] // rows, fields[variable.name])
        for variable in layout.variables
    }
    (folder / PLACE).mkdir(exist_ok=True)
    path = folder / PLACE / shard_name(ids)
    words = {v.name: {"file": files[v.name], "dims": v.dims, "attrs": dict(v.attrs)} for v in layout.variables}
    with whole_file(path, needed=2**16, libver=LIBVER) as (file, _):
        write_skeleton(file, replace(layout, variables=()), ids, per_sample, attributes)
        file.attrs[PACKS] = json.dumps(words, default=plain)
        finish_file(file, layout, len(ids))
    return read_pack(path)


def read_pack(path: Path) -> Pack:
    """Read a record. Raises StoreError when it is damaged."""
    record = read_shard(path)
    try:
        with open_file(path) as file:
            words = json.loads(file.attrs[PACKS])
        found = {str(name): (str(each["file"][0]), int(each["file"][1]), str(each["file"][2])) for name, each in words.items()}
        if odd := [name for name, _, _ in found.values() if ".." in Path(name).parts or Path(name).is_absolute()]:
            raise ValueError(f"it leads to {odd[0]!r}, which is not followed")
        return Pack(record, found)
    except (*UNREADABLE, AttributeError, IndexError) as error:
        raise StoreError(f"{path} is damaged ({first_line(error)})") from error


def whole_packs(folder: Path) -> tuple[list[Pack], list[Path]]:
    """The packs of a run that have all their files, and the records of those that do not. Raises StoreError."""
    records, damaged = scan(folder, PLACE)
    whole: list[Pack] = []
    for record in records:
        try:
            pack = read_pack(record.path)
        except StoreError:
            damaged.append(record.path)
            continue
        if pack.problem(folder):
            damaged.append(record.path)
        else:
            whole.append(pack)
    return whole, damaged


def layout_of_record(path: Path) -> Layout:
    """The layout of the samples of a pack, by its record."""
    with open_file(path) as file:
        layout, words = read_layout(file), json.loads(file.attrs[PACKS])
    variables = tuple(Variable(name, tuple(each["dims"]), each["attrs"]) for name, each in words.items())
    return replace(layout, variables=variables)


def array_options(layout: Layout, variable: Variable, rows: int) -> dict[str, Any]:
    """How the array of a variable is stored: one sample per chunk, compressed and with a checksum, `rows` samples per shard."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    shape = layout.shape(variable)
    return {
        "dtype": "float32",
        "chunks": (1, *shape),
        "shards": (rows, *shape),
        "compressors": [ZstdCodec(level=3), Crc32cCodec()],
        "fill_value": np.nan,
        "dimension_names": (layout.sample_dim, *variable.dims),
        "config": {"write_empty_chunks": True},
    }


def _write_shard(root: Path, layout: Layout, variable: Variable, number: int, data: np.ndarray) -> tuple[str, int, str]:
    """Write one Zarr shard of one variable, whole or not at all; its name, its size and its checksum. Raises StoreError."""
    import zarr

    rows, shape = rows_in_shard(layout), layout.shape(variable)
    staging = root / f"{uuid.uuid4().hex}{PARTIAL}"
    name = "/".join([variable.name, "c", str(number), *("0" for _ in shape)])
    try:
        staging.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = zarr.create_array(str(staging / "a"), shape=(rows, *shape), **array_options(layout, variable, rows))
            array[: len(data)] = data
        file = staging / "a" / "/".join(["c", "0", *("0" for _ in shape)])
        content = file.read_bytes()
        sync(file)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, root / name)
        sync_folder((root / name).parent)
    except OSError as error:
        raise StoreError(f"cannot write {root / name}: {error.strerror or error}; free some space, and start again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return name, len(content), hashlib.sha256(content).hexdigest()
