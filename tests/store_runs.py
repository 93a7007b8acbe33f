"""Small runs for the tests of the store, and a child process in which they can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from piadm_hpc.schema.layout import Coordinate, Layout, Variable
from piadm_hpc.store.folder import Store
from piadm_hpc.store.reading import open_run

SIDE = 64


def layout(side: int = SIDE) -> Layout:
    """Return the layout of one variable u along x."""
    points = Coordinate(("x",), np.arange(side, dtype=np.float64), {"units": "m"})
    return Layout((Variable("u", ("x",), {"units": "m s-1"}),), {"x": points})


def values(ids: Sequence[int], side: int = SIDE) -> dict[str, np.ndarray]:
    """Return fields that follow from the samples' ids."""
    return {"u": np.stack([np.random.default_rng(sample).standard_normal(side).astype(np.float32) for sample in ids])}


def create(folder: Path, samples: Sequence[int], shard_size: int = 3, *, side: int = SIDE, **options: Any) -> Store:
    """Create the store of a run."""
    given: dict[str, Any] = {"config": {"seed": 1}, "attributes": {"model_sha256": "abc"}}
    return Store.create(folder, layout=layout(side), samples=samples, shard_size=shard_size, **(given | options))


def fill(store: Store, side: int = SIDE) -> Path:
    """Write and merge all samples that are missing."""
    for ids in store.missing():
        store.write(ids, values(ids, side), {"seed": np.ones(len(ids), int), "sweeps": np.ones((len(ids), 2), int)})
    return store.join()


def run(folder: Path, samples: Sequence[int] = range(9), side: int = SIDE) -> list[Path]:
    """Write a whole run and return its shards."""
    with create(folder, samples, side=side) as store:
        fill(store, side)
    return sorted((folder / "shards").glob("*.h5"))


def assert_holds(folder: Path, ids: Sequence[int], side: int = SIDE) -> None:
    """Check that a run opens with these samples and with their own values."""
    with open_run(folder) as dataset:
        assert dataset["realization"].values.tolist() == list(ids)
        np.testing.assert_array_equal(dataset["u"].values, values(ids, side)["u"])


def in_child(action: Callable[[], object], *, kill_after: float | None = None) -> None:
    """Run `action` in another process, killed after `kill_after` seconds if these are given; its failure is raised here."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def main() -> None:
        try:
            action()
            there.send("")
        except BaseException as error:
            there.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=main)
    child.start()
    if kill_after is None:
        failure = here.recv() if here.poll(50) else "the child gave no answer"
        child.join(10)
        assert failure == "" and child.exitcode == 0, failure
        return
    time.sleep(kill_after)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def killed_at_work(action: Callable[[], object], place: Path, breath: float) -> None:
    """Run `action` in another process and kill it `breath` seconds after a new file has appeared in `place`."""

    def files() -> set[tuple[str, int]]:
        found = set()
        for path in place.rglob("*"):
            with suppress(OSError):
                found.add((str(path), path.stat().st_ino))
        return found

    child = multiprocessing.get_context("fork").Process(target=action)
    before, began = files(), time.monotonic()
    child.start()
    while child.is_alive() and not files() - before and time.monotonic() - began < 50:
        time.sleep(0.002)
    time.sleep(breath)
    if child.pid is not None and child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    child.join()
