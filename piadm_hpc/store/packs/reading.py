"""Opening a run's Zarr store after checking that it is complete: a Zarr reader reads a missing shard as missing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from ...config.samples import INDEPENDENT_KEYS
from ..errors import StoreError
from ..files import digest
from ..opening import strangers
from ..requested import DRAW_AGAIN, JOIN, absent, in_words, requested
from ..settings import run_config
from ..shard import scan
from .publishing import published_problem
from .records import PLACE, ZARR, read_pack, require_zarr, whole_packs


def zarr_folder(path: Path) -> Path | None:
    """The folder of a run whose samples are in a Zarr store, from the folder or the store; None for any other path."""
    folder = path.parent if path.name == ZARR else path
    return folder if (folder / PLACE).is_dir() else None


def zarr_problems(folder: Path, *, deep: bool = False) -> tuple[list[str], list[int], int]:
    """The problems with a run's Zarr store, one line each; the ids of its samples; and its bytes."""
    records, damaged = scan(folder, PLACE)
    problems = [f"{PLACE}/{path.name} is damaged: {DRAW_AGAIN}" for path in damaged]
    ids: list[int] = []
    size = 0
    for record in records:
        try:
            pack = read_pack(record.path)
        except StoreError as error:
            problems.append(f"{error}: {DRAW_AGAIN}")
            continue
        if wrong := pack.problem(folder, deep=deep):
            problems.append(f"{wrong}: {DRAW_AGAIN}")
        ids += pack.ids
        size += sum(size for _, size, _ in pack.files.values())
    config = run_config(folder) or (records[0].config if records else "")
    problems += strangers(records, config, INDEPENDENT_KEYS)
    if not problems:
        problems += _metadata(folder, ids)
    if not problems and (left := absent(requested(folder) or (), ids)):
        problems.append(f"{len(left)} of the samples asked for are missing ({in_words(left)}): {DRAW_AGAIN}")
    return problems, sorted(ids), size


def _metadata(folder: Path, ids: Sequence[int]) -> list[str]:
    problem, rows = published_problem(folder)
    if problem:
        return [f"{problem}: {JOIN}"]
    return [] if rows == len(ids) else [f"{ZARR} shows {rows} samples, and {len(ids)} are packed: {JOIN}"]


def open_packed(folder: Path) -> xr.Dataset:
    """Open the samples of a run along one dimension from its Zarr store. Raises StoreError for whatever is not whole.

    So does every later read of a Zarr shard that has been removed; a wrong checksum is an error of the reader.
    """
    require_zarr()
    problems, _, _ = zarr_problems(folder)
    if problems:
        raise StoreError(f"{folder / ZARR} is not whole:\n  " + "\n  ".join(problems))
    digests = {name: known for pack in whole_packs(folder)[0] for name, _, known in pack.files.values()}
    return xr.open_dataset(_whole_store(folder / ZARR, digests), engine="zarr", consolidated=True, chunks=None)


def _whole_store(root: Path, digests: Mapping[str, str]) -> Any:
    """A store of the zarr package that checks that the files of the samples are those that were opened.

    A file whose stamp has changed is compared by its digest: users touch files to keep them from being purged, and file systems
    give the inode of a removed file to the next one.
    """
    from zarr.storage import LocalStore, WrapperStore

    stamps = {name: _stamp(root / name) for name in digests}

    def require(key: str) -> None:
        if key not in digests:
            return
        stamp = _stamp(root / key)
        if stamp is not None and stamp == stamps[key]:
            return
        if stamp is None or digest(root / key) != digests[key]:
            raise StoreError(f"{root / key} was rewritten or removed after this dataset was opened; open {root} again")
        stamps[key] = stamp

    class WholeStore(WrapperStore):  # type: ignore[type-arg]
        """The files of a store; one that has been removed or replaced is an error."""

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            require(key)
            found = await super().get(key, prototype, byte_range)
            require(key)  # checked again: it may have been removed while it was read
            return found

    return WholeStore(LocalStore(root, read_only=True))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of the last change of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
