"""Damage done to files and to the folders of finished runs, for benchmarks/inputs.py."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from random import Random
from typing import Protocol

import h5py
import numpy as np

TEXTS = ["", "{", "[]", "{}", "null", "3", '"x"', "\x00", "[" * 5000, '{"samples": [[0, 1e9]]}', "model = 3\n"]
TEXTS += ['{"samples": {"a": 1}}', '{"time": "t", "event": "progress"}', '{"pid": 1, "host": 3}']
TEXTS += ['{"folder": "x", "cluster": "slurm", "jobs": {"a": [1]}}']
NOTES = ["run.toml", "requested.json", ".lock", "events.jsonl", "summary.json", "log.txt", "STOP", "job.toml"]
NOTES += ["jobs/submissions.jsonl"]


class Pair(Protocol):
    """A finished run, and another one."""

    @property
    def run(self) -> Path: ...

    @property
    def other(self) -> Path: ...


def harm_folder(dice: Random, out: Path, stock: Pair) -> None:
    """Lose, damage, exchange or rewrite a file of the run in the folder `out`."""
    dice.choice([_harm_bytes, _harm_bytes, _harm_note, _harm_hdf5, _harm_hdf5, _exchange, _replace])(dice, out, stock)


def harmed(dice: Random, content: bytes) -> bytes:
    """Return the content with some bytes changed, cut off, doubled or removed."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 3, 20])):
        if not data:
            break
        at = dice.randrange(len(data))
        how = dice.randrange(4)
        if how == 0:
            data[at] = dice.randrange(256)
        elif how == 1:
            del data[at:]
        elif how == 2:
            del data[at : at + dice.randrange(40)]
        else:
            data[at:at] = data[at : at + dice.randrange(40)]
    return bytes(data)


def _files(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*") if path.is_file() and not path.is_symlink())


def _harm_bytes(dice: Random, out: Path, stock: Pair) -> None:
    if found := _files(out):
        path = dice.choice(found)
        path.write_bytes(harmed(dice, path.read_bytes()))


def _harm_note(dice: Random, out: Path, stock: Pair) -> None:
    path = out / dice.choice(NOTES)
    path.parent.mkdir(exist_ok=True)
    if not path.is_dir():
        path.write_text(dice.choice(TEXTS) + dice.choice(["", "\n"]) + dice.choice(["", *TEXTS]))


def _harm_hdf5(dice: Random, out: Path, stock: Pair) -> None:
    """A sound HDF5 file with other attributes or contents."""
    found = [path for path in _files(out) if path.suffix == ".h5"]
    if not found:
        return
    with contextlib.suppress(OSError, KeyError, RuntimeError, ValueError, TypeError), h5py.File(dice.choice(found), "r+") as file:
        name, attribute = dice.choice(sorted(file)), dice.choice(sorted(file.attrs))
        how = dice.randrange(6)
        if how in (0, 3):
            del file[name]
        if how == 1:
            del file.attrs[attribute]
        elif how == 2:
            file.attrs[attribute] = dice.choice([*ODD_ATTRIBUTES, *TEXTS[:8]])
        elif how == 3:
            file[name] = dice.choice(ODD_DATA)
        elif how == 4:
            elsewhere = [h5py.ExternalLink(str(stock.run / "samples.h5"), "tas"), h5py.ExternalLink("/dev/null", "x")]
            file[dice.choice(["more", "x"])] = dice.choice([h5py.SoftLink("/nowhere"), h5py.SoftLink("/"), *elsewhere])
        elif how == 5:
            file.attrs["complete"] = dice.choice([0, 1, "yes"])


ODD_ATTRIBUTES = [0, -1, 3.5, "x y z", b"\xff", np.arange(3), np.array(["a", "b"], "S1"), "tas lat", h5py.Empty("f")]
ODD_ATTRIBUTES += ['{"shards/x.h5": 3}']
ODD_DATA = [3, np.zeros((2, 2)), "text", np.array([b"a", b"b"]), np.arange(7), np.zeros((0,)), np.array([np.nan])]


def _exchange(dice: Random, out: Path, stock: Pair) -> None:
    """One file in place of another, of this run or of the other one."""
    target, source = dice.choice(_files(out) or [out / "x"]), dice.choice(_files(dice.choice([stock.run, stock.other])))
    shutil.copy(source, dice.choice([target, target.parent / source.name]))


def _replace(dice: Random, out: Path, stock: Pair) -> None:
    """A file is gone, or a folder or a link stands in its place."""
    path = dice.choice([*_files(out), out / "shards"])
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    kind = dice.randrange(4)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(dice.choice([path, out, Path("nowhere"), Path("/dev/null")]))
