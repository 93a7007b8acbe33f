"""Opening the statistics of a run after checking that they are complete, and listing their problems."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import xarray as xr

from ...config.samples import INDEPENDENT_KEYS
from ..errors import StoreError
from ..opening import strangers
from ..requested import JOIN, absent, in_words, members_wanted, requested
from ..settings import run_config
from ..shard import UNREADABLE, Shard, first_line, open_file, read_shard, scan
from .output import SOURCE, STATISTICS
from .packing import read_recipe
from .parts import PLACE, wrong_part

OF_THE_FILE = ("complete", "num_samples", "variables", "piadm_format", SOURCE)
AGAIN = "run the same `piadm sample` again, which counts only what is missing"


def open_statistics(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open the statistics of a run as a lazy dataset; `path` is its folder or its statistics.h5.

    Raises StoreError when they are missing, damaged, or those of fewer members than were counted.
    """
    file = statistics_file(Path(path))
    if file is None:
        raise StoreError(f"{path} holds no statistics; name statistics.kinds in the run's configuration, and run it again")
    if problems := statistics_problems(file.parent):
        raise StoreError(f"{file} is not whole:\n  " + "\n  ".join(problems))
    dataset = xr.open_dataset(file, engine="h5netcdf")
    for name in OF_THE_FILE:
        dataset.attrs.pop(name, None)
    return dataset


def statistics_file(path: Path) -> Path | None:
    """The statistics.h5 of a run, from the file or its folder; None for a folder without statistics, and for other files."""
    given = path.absolute()
    if given.name == STATISTICS and not given.is_dir():
        return given
    return given / STATISTICS if (given / STATISTICS).exists() or (given / PLACE).is_dir() else None


def counts_only(path: Path) -> bool:
    """Whether a path leads only to statistics: to the file, or to a run whose members are not stored."""
    return path.name == STATISTICS or (path.is_dir() and (path / PLACE).is_dir() and not members_wanted(path))


def statistics_problems(folder: Path, *, deep: bool = False) -> list[str]:
    """The problems with the statistics of a run, one line each; with `deep` every value is read."""
    try:
        whole = read_shard(folder / STATISTICS)
        source = _source(whole, deep)
    except StoreError as error:
        return [f"{error}: {JOIN}"]
    except (*UNREADABLE, AttributeError) as error:
        return [f"{STATISTICS} is damaged ({first_line(error)}): {JOIN}"]
    if not (folder / PLACE).is_dir():  # the file was copied without its folder
        return []
    try:
        (parts, damaged), recipe = scan(folder, PLACE), read_recipe(folder)
    except StoreError as error:
        return [str(error)]
    problems = [f"{PLACE}/{path.name} is damaged: {AGAIN}" for path in damaged]
    problems += strangers([*parts, whole], run_config(folder) or whole.config, INDEPENDENT_KEYS)
    problems += _not_in_the_file(parts, whole)
    if recipe is not None and source.get("recipe") != recipe.digest:
        problems.append(f"{STATISTICS} was written by another recipe than that of the parts: {JOIN}")
    if deep:
        problems += [f"{line}: {AGAIN}" for part in parts for line in wrong_part(part)]
    wanted = requested(folder) or ()
    if not problems and not members_wanted(folder) and (left := absent(wanted, whole.ids)):
        problems.append(f"{len(left)} of the {len(wanted)} samples asked for are not counted ({in_words(left)}): {AGAIN}")
    return problems


def _source(whole: Shard, deep: bool) -> dict[str, str]:
    with open_file(whole.path) as file:
        if deep:
            for found in file.values():
                if isinstance(found, h5py.Dataset):
                    found[...]
        return dict(json.loads(file.attrs[SOURCE]))


def _not_in_the_file(parts: Sequence[Shard], whole: Shard) -> list[str]:
    counted = {sample for part in parts for sample in part.ids}
    if counted == set(whole.ids):
        return []
    if counted < set(whole.ids):
        return [f"{PLACE}/ lacks {len(set(whole.ids) - counted)} of the {len(whole.ids)} samples in {STATISTICS}: {AGAIN}"]
    return [f"{PLACE}/ holds {len(counted - set(whole.ids))} samples that {STATISTICS} does not have: {JOIN}"]


def size_of(folder: Path) -> tuple[tuple[int, ...], int, int]:
    """The ids that statistics.h5 counts, the number of parts, and the bytes of both; nothing where it cannot be read."""
    try:
        whole = read_shard(folder / STATISTICS)
        parts = scan(folder, PLACE)[0]
    except StoreError:
        return (), 0, 0
    return whole.ids, len(parts), whole.num_bytes + sum(part.num_bytes for part in parts)
