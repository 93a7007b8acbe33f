"""Many small shards: the time and memory of joining and opening them, and values lost to the limit on open files.

python benchmarks/shards.py
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from common import Report, answer, at_most, between, launch, parser, question

from piadm_hpc.schema.layout import Coordinate, Layout, Variable
from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.folder import Store
from piadm_hpc.store.reading import open_run

SIDE = 128
COLUMNS = ("shards", "open files allowed", "join s", "files then", "open s", "read s", "memory MB", "wrong values")
CASES = ((1000, 1024), (3000, 1024))
QUICK = ((60, 1024),)


def fields(ids: Sequence[int]) -> np.ndarray:
    """Values [samples, SIDE] that differ between samples."""
    return (np.asarray(ids, np.float32)[:, None] + np.linspace(0, 0.5, SIDE, dtype=np.float32)).astype(np.float32)


def write(folder: Path, count: int) -> None:
    """Write a run of `count` samples with one sample per shard."""
    points = Coordinate(("x",), np.arange(SIDE, dtype=np.float64), {"units": "m"})
    layout = Layout((Variable("u", ("x",), {"units": "m s-1"}),), {"x": points})
    details: dict[str, Any] = {"config": {"seed": 1}, "attributes": {"model_sha256": "abc"}}
    with Store.create(folder, layout=layout, samples=range(count), shard_size=1, **details) as store:
        for ids in store.batches():
            store.write(ids, {"u": fields(ids)}, {"seed": np.ones(1, int)})


def measured(folder: Path, allowed: int) -> dict[str, float]:
    """Seconds and memory of joining, opening and reading, with a limit of `allowed` open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    warm_up()
    with Store.existing(folder) as store:
        before, clock = peak(), [time.perf_counter()]
        store.join()
    clock.append(time.perf_counter())
    files = len(list((folder / "shards").glob("*.h5")))
    with open_run(folder) as dataset:
        clock.append(time.perf_counter())
        ids = dataset["realization"].values
        wrong = int((dataset["u"].values != fields(ids)).sum())
    clock.append(time.perf_counter())
    with xr.open_dataset(folder / "samples.h5") as plain:
        wrong += int((plain["u"].values != fields(ids)).sum())
    seconds = dict(zip(("join", "open", "read"), np.diff(clock).tolist(), strict=True))
    return {**seconds, "files": files, "memory": peak() - before, "wrong": wrong, "samples": len(ids)}


def warm_up() -> None:
    """Import everything before memory and time are measured."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), 2)
        with Store.existing(folder) as store:
            store.join()
        open_run(folder).close()
        xr.open_dataset(Path(folder) / "samples.h5").close()


def refused(folder: Path, count: int) -> float:
    """Return 1 if an index over more files than may be open is refused with advice, else 0."""
    with Store.existing(folder) as store:
        store.join(max_shards=count)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count // 2, count // 2))
    try:
        open_run(folder)
    except StoreError as error:
        return float("raise the limit with `ulimit -n`" in str(error))
    return 0.0


def peak() -> float:
    """Peak memory of this process in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def main() -> int:
    options = parser(__doc__).parse_args()
    if options.worker:
        setting = question(options.worker)
        folder, number = Path(setting["folder"]), setting["number"]
        answer(options.worker, refused(folder, number) if setting["refuse"] else measured(folder, number))
        return 0
    report, rows = Report("shards"), []
    for count, allowed in QUICK if options.quick else CASES:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place), count)
            refusal = launch(__file__, None, {"folder": place, "number": count, "refuse": True})
            results = launch(__file__, None, {"folder": place, "number": allowed, "refuse": False})
        rows.append([count, allowed, *(results[name] for name in ("join", "files", "open", "read", "memory", "wrong"))])
        report.aims += [
            at_most(f"{count} shards: join, s", results["join"], max(10.0, count / 100)),
            at_most(f"{count} shards: open, s", results["open"], 1.0),
            at_most(f"{count} shards: wrong or missing values", results["wrong"] + abs(results["samples"] - count), 0),
            between(f"{count} shards: an index over too many files is refused", refusal, 1, 1),
        ]
    report.add("Joining, opening and reading", COLUMNS, rows)
    report.aims.append(at_most("memory of joining, opening and reading, MB", max(row[6] for row in rows), 100))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
