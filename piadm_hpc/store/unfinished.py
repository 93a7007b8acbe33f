"""Drafts: the state of samples at the end of a block when a run is asked to stop, so that at most one block is lost."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StoreError
from .files import whole_file
from .settings import without_keys
from .shard import LIBVER, UNREADABLE, first_line, open_file, require_own_data, shard_name

log = logging.getLogger(__name__)
FOLDER = "unfinished"


def fingerprint(config: Mapping[str, Any], model_sha256: str, independent: frozenset[str]) -> str:
    """A digest that must agree for a draft to be continued: of the model, and of every setting that determines a sample."""
    text = json.dumps([without_keys(config, independent), model_sha256], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_draft(folder: Path, ids: Sequence[int], arrays: Mapping[str, np.ndarray], mark: str) -> None:
    """Write `arrays` of the samples `ids` as a draft, complete or not at all; on a full disk a warning is logged instead."""
    place = folder / FOLDER
    try:
        place.mkdir(exist_ok=True)
        needed = sum(array.nbytes for array in arrays.values())
        with whole_file(place / shard_name(ids), needed=needed, libver=LIBVER) as (file, _):
            file.attrs["fingerprint"] = mark
            file.create_dataset("ids", data=np.asarray(ids, np.int64))
            for name, array in arrays.items():
                file.create_dataset(name, data=array, fletcher32=True, chunks=array.shape)
    except (OSError, StoreError) as error:
        log.warning("samples %d to %d start again next time: their state could not be stored (%s)", ids[0], ids[-1], error)


def find_drafts(folder: Path, mark: str) -> list[tuple[tuple[int, ...], Path]]:
    """Find the ids and files of this run's drafts; damaged drafts and those of other runs are removed."""
    found = []
    for path in sorted((folder / FOLDER).glob("samples_*.h5")):
        try:
            with open_file(path) as file:
                require_own_data(file)
                if file.attrs["fingerprint"] == mark:
                    found.append((tuple(file["ids"][...].tolist()), path))
                    continue
        except UNREADABLE as error:
            log.warning("%s is damaged (%s): its samples start again", path, first_line(error))
        discard_draft(path)
    return found


def read_draft(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a draft. Raises StoreError when they cannot be read."""
    try:
        with open_file(path) as file:
            return {name: file[name][...] for name in file if name != "ids"}
    except UNREADABLE as error:
        raise StoreError(f"cannot read {path} ({first_line(error)}); delete it, and its samples start again") from error


def discard_draft(path: Path) -> None:
    """Remove a draft."""
    with suppress(OSError):
        path.unlink()


def clear_drafts(folder: Path) -> None:
    """Remove all drafts of a run."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
