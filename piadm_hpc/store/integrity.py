"""Checks that everything in an index exists, because HDF5 reads a missing shard as missing values and reports nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ..config.samples import INDEPENDENT_KEYS
from .conventions import PER_SAMPLE
from .errors import DamagedShard, StoreError
from .files import allow_open_files, most_open_files
from .index import INDEX
from .opening import strangers
from .packs.reading import zarr_folder, zarr_problems
from .packs.records import PLACE as PACKED
from .packs.records import ZARR
from .requested import DRAW_AGAIN, JOIN, absent, in_words, requested
from .settings import run_config
from .shard import SHARDS, UNREADABLE, Shard, first_line, open_file, read_shard, scan
from .statistics.output import STATISTICS
from .statistics.reading import counts_only, size_of, statistics_file, statistics_problems

OWN_SHARD = re.compile(rf"{SHARDS}/samples_[^/]+\.h5")


@dataclass(frozen=True)
class Report:
    """The result of a check: `problems` has one line for each problem, and is empty if there are none."""

    path: Path
    problems: tuple[str, ...]
    num_samples: int = 0
    num_shards: int = 0
    bytes: int = 0
    kind: str = "shards"

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if not self.ok:
            return "\n  ".join([f"{self.path} is not whole:", *self.problems])
        return f"{self.path}: {self.num_samples} samples in {self.num_shards} {self.kind}, {self.bytes / 1e6:.1f} MB: whole"


def find_file(path: str | os.PathLike[str]) -> Path:
    """Find the file that people open, given it or its folder. Raises StoreError when there is none."""
    given = Path(path).absolute()
    file = given / INDEX if given.is_dir() else given
    if file.is_file():
        return file
    if given.is_dir() and any((given / SHARDS).glob("samples_*.h5")):
        raise StoreError(f"{given} has shards but no {INDEX}; {JOIN} {given}")
    absent = "" if given.exists() else " (there is no such file or folder)"
    raise StoreError(f"{given} holds no samples; give the folder of a run, its {INDEX}, or one of its shards{absent}")


def check(path: str | os.PathLike[str], *, deep: bool = False, extra: bool = True) -> Report:
    """Check a run's folder, its index, a joined copy or a single shard, and list everything that is wrong.

    The structure of each file is read; with `deep` every value too, which finds damaged bytes, missing values where there
    should be none, and an index that disagrees with its shards. `extra` also reports shards that the index does not list, and
    requested samples that are missing. For a run whose samples are counted and not stored, its statistics are checked.
    """
    if counts_only(given := Path(path).absolute()):
        folder = given if given.is_dir() else given.parent
        ids, parts, size = size_of(folder)
        return Report(folder / STATISTICS, tuple(statistics_problems(folder, deep=deep)), len(ids), parts, size, "parts")
    if (packed := zarr_folder(given)) is not None:
        problems, rows, size = zarr_problems(packed, deep=deep)
        problems += statistics_problems(packed, deep=deep) if extra and statistics_file(packed) is not None else []
        return Report(packed / ZARR, tuple(problems), len(rows), len(list((packed / PACKED).glob("*.h5"))), size, "packs")
    try:
        file = find_file(path)
        whole = read_shard(file, index=True)
        listed = _listing(file)
    except DamagedShard as error:
        return Report(Path(path), (f"{error}; {JOIN} to write it again from its shards, or {DRAW_AGAIN}",))
    except StoreError as error:
        return Report(Path(path), (str(error),))
    if listed is None:
        return Report(file, tuple(wrong_values(whole)) if deep else (), len(whole.ids), 1, whole.num_bytes)
    base = file.resolve().parent
    shards, problems = _listed_shards(file, base, listed)
    if not problems:
        try:
            problems += _wrong_index(file, shards, whole, deep)
        except UNREADABLE as error:
            problems.append(f"{file.name} is damaged ({first_line(error)}): {JOIN}")
    problems += strangers(list(shards.values()), whole.config, INDEPENDENT_KEYS)
    if not problems and deep:
        for shard in shards.values():
            problems += wrong_values(shard)
    if extra:
        problems += _beside_the_index(base, whole, listed)
    if extra and not problems:
        problems += _absent_samples(base, whole)
    if extra and statistics_file(base) is not None:
        problems += statistics_problems(base, deep=deep)
    return Report(file, tuple(dict.fromkeys(problems)), len(whole.ids), len(listed), whole.num_bytes + sum(listed.values()))


def _listing(file: Path) -> dict[str, int] | None:
    """The shards that an index lists, with their sizes; None for any other file. Raises DamagedShard."""
    try:
        with open_file(file) as handle:
            if "shards" not in handle.attrs:
                return None
            listed = json.loads(handle.attrs["shards"])
        return {str(name): int(size) for name, size in listed.items()}
    except (*UNREADABLE, AttributeError, RecursionError) as error:
        raise DamagedShard(f"{file} is damaged ({first_line(error)})") from error


def _listed_shards(file: Path, base: Path, listed: dict[str, int]) -> tuple[dict[str, Shard], list[str]]:
    """The shards that an index lists, by the names it uses, and the problems with them."""
    if outside := sorted(name for name in listed if not OWN_SHARD.fullmatch(name)):
        return {}, [f"{file.name} leads to {outside[0]!r}, which is no shard of this folder, and is not followed: {JOIN}"]
    if not any((base / name).exists() for name in listed):
        advice = "copy that folder beside it, or make one ordinary file where the shards are with `piadm join --copy`"
        return {}, [f"{file.name} is an index, and none of its {len(listed)} shards is in {base / SHARDS}: {advice}"]
    problems = []
    if not allow_open_files(len(listed)):
        problems.append(
            f"{file.name} needs {len(listed)} files open at once, and this process may open {max(0, most_open_files())} more:"
            " raise the limit with `ulimit -n`, or make one ordinary file with `piadm join --copy`"
        )
    shards: dict[str, Shard] = {}
    for name, size in listed.items():
        path = base / name
        try:
            if not path.exists():
                problems.append(f"{name} is missing: bring it back, or {DRAW_AGAIN}")
            elif path.stat().st_size != size:
                found = path.stat().st_size
                problems.append(f"{name} has {found} bytes, the index knows {size}: {JOIN} if it is sound, or {DRAW_AGAIN}")
            else:
                shards[name] = read_shard(path)
        except DamagedShard as error:
            problems.append(f"{error}: {DRAW_AGAIN}")
        except StoreError as error:
            problems.append(str(error))
    return shards, problems


def _wrong_index(file: Path, shards: dict[str, Shard], whole: Shard, deep: bool) -> list[str]:
    """Rows of the index that lead to another sample, and with `deep` to other values, than the shards hold."""
    problems = [
        f"{shard.name} records {sorted(shard.recorded)} per sample, the index {sorted(whole.recorded)}: {JOIN}"
        for shard in shards.values()
        if shard.recorded != whole.recorded
    ][:1]
    with open_file(file) as index:
        for name in whole.shapes:
            if not index[name].is_virtual:
                problems.append(f"{file.name}: {name} does not lead to the shards: {JOIN}")
                continue
            sources = index[name].virtual_sources()
            covered = 0
            for source in sources:
                shard = shards.get(source.file_name)
                if shard is None:
                    problems.append(f"{file.name}: {name} leads to {source.file_name}, which is not listed: {JOIN}")
                    continue
                rows, there = _rows(source.vspace), _rows(source.src_space)
                covered += rows.stop - rows.start
                if source.dset_name.strip("/") != name or shard.ids[there] != whole.ids[rows]:
                    problems.append(f"{source.file_name} holds other samples than the index says: {JOIN}")
                elif deep:
                    problems += _other_values(index, name, rows, shard.path, there)
            if not problems and covered != len(whole.ids):
                problems.append(f"{file.name}: {name} leads to {covered} of {len(whole.ids)} samples: {JOIN}")
    return list(dict.fromkeys(problems))


def _rows(space: h5py.h5s.SpaceID) -> slice:
    low, high = space.get_select_bounds()
    return slice(int(low[0]), int(high[0]) + 1)


def _other_values(index: h5py.File, name: str, rows: slice, path: Path, there: slice) -> list[str]:
    try:
        with open_file(path) as shard:
            for cost in set(shard) & set(PER_SAMPLE):
                if not np.array_equal(index[cost][rows], shard[cost][there], equal_nan=shard[cost].dtype.kind == "f"):
                    return [f"{path.name}: {cost} differs from the index: {JOIN}"]
            for ours, theirs in zip(range(rows.start, rows.stop), range(there.start, there.stop), strict=True):
                if not np.array_equal(index[name][ours], shard[name][theirs], equal_nan=True):
                    return [f"{path.name}: {name} differs from what the index gives: {JOIN}"]
    except UNREADABLE as error:
        return [f"{path.name} is damaged ({first_line(error)}): {DRAW_AGAIN}"]
    return []


def wrong_values(whole: Shard) -> list[str]:
    """Read every value of one file; one line for each that cannot be read, is infinite, or is missing since it was written."""
    problems = []
    try:
        with open_file(whole.path) as file:
            for name in set(file) - set(whole.shapes):
                if isinstance(file[name], h5py.Dataset):
                    file[name][...]
            for name in whole.shapes:
                problems += list(_odd_samples(file[name], whole, name))
    except UNREADABLE as error:
        problems.append(f"{whole.name} is damaged ({first_line(error)}): {DRAW_AGAIN}")
    return problems


def _odd_samples(dataset: h5py.Dataset, whole: Shard, name: str) -> Iterator[str]:
    num_missing = 0
    for row, sample in enumerate(whole.ids):
        values = dataset[row]
        num_missing += int(np.isnan(values).sum())
        if np.isinf(values).any():
            yield f"{whole.name}: {name} of sample {sample} is infinite: {DRAW_AGAIN}"
    expected = int(dataset.attrs["num_missing"])
    if num_missing != expected:
        yield f"{whole.name}: {name} lacks {num_missing} values, {expected} on purpose: {DRAW_AGAIN}"


def _absent_samples(base: Path, whole: Shard) -> list[str]:
    wanted = requested(base) or ()
    if left := absent(wanted, whole.ids):
        return [f"{len(left)} of the {len(wanted)} samples asked for are missing ({in_words(left)}): {DRAW_AGAIN}"]
    return []


def _beside_the_index(base: Path, whole: Shard, listed: dict[str, int]) -> list[str]:
    """The problems with the shards of a folder that the index does not list."""
    try:
        shards, damaged = scan(base)
    except StoreError as error:
        return [str(error)]
    known = set(whole.ids)
    problems = strangers(shards, run_config(base) or whole.config, INDEPENDENT_KEYS)
    for shard in shards:
        more = len(set(shard.ids) - known)
        if more and f"{SHARDS}/{shard.name}" not in listed:
            problems.append(f"{SHARDS}/{shard.name} holds {more} samples that the index does not have: {JOIN}")
    for path in damaged:
        if f"{SHARDS}/{path.name}" not in listed:
            problems.append(f"{SHARDS}/{path.name} is damaged and not part of the index: {DRAW_AGAIN}")
    return problems
