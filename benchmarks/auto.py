"""The automatic choices of a run against the best fixed ones: wall time of whole runs, files included, in the same launch.

    python benchmarks/auto.py

"Own device": every rank has an EMULATED accelerator that takes a wait for every row, or one wait for up to 64 rows; the network
of the shipped molecule computes its output meanwhile. "Shared cores": ranks take turns on the processors of this machine. A fixed
choice gives kind, window, time ranks and batches; those that are predicted to take twice as long as the fastest are left out.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import Cell, Report, answer, at_most, launch, parser, question
from torch import Tensor

from piadm_hpc import load_model
from piadm_hpc.comm.communicator import MPICommunicator
from piadm_hpc.comm.rank_grid import world
from piadm_hpc.comm.timing import Network
from piadm_hpc.config.run import RunConfig
from piadm_hpc.run import execute as running
from piadm_hpc.run.calls import CallTimes
from piadm_hpc.run.resolve import resolve
from piadm_hpc.run.ways import Ways

MODEL, RANKS, SAMPLES, ROWS = "alanine-dipeptide", (1, 2, 4, 8, 16), (1, 8, 64), 4096
DEVICES = {
    "rows": "every rank has a device of its own (emulated), {wait:g} ms a row",
    "calls": "every rank has a device of its own (emulated), {wait:g} ms for up to 64 rows",
    "shared": "all ranks share the cores of one machine",
}
WIDTH, SLOWER = 64, 2.0
LIMIT, HAND_SET = 1.1, 1.5
COLUMNS = ("ranks", "samples", "chosen", "s", "best fixed choice", "s, best fixed", "ratio")


class Device:
    """The score on a device that takes `wait` seconds for `width` rows, independent of the processor of this machine."""

    def __init__(self, score: Any, wait: float, width: int):
        self.score, self.wait, self.width = score, wait, width

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        until = time.perf_counter() + self.wait * -(-len(x) // self.width)
        result: Tensor = self.score(x, t)
        time.sleep(max(0.0, until - time.perf_counter()))
        return result


def loader(device: str, wait: float) -> Any:
    """A loader of models whose scores take their time on the device."""
    if device == "shared":
        return load_model
    width = 1 if device == "rows" else WIDTH

    def load(*arguments: Any, **options: Any) -> Any:
        model = load_model(*arguments, **options)
        return replace(model, score=Device(model.score, wait, width))

    return load


def fixed(device: str, wait: float, ranks: int, samples: int) -> Iterator[dict[str, Any]]:
    """The sections of the fixed choices."""
    config = RunConfig(model=MODEL, samples=samples, output={"batch": samples}, compute={"model_batch": ROWS})
    ways = Ways(resolve(config, load_model(MODEL)), ranks, Network())
    times = CallTimes((1, WIDTH), (wait, wait if device == "calls" else wait * WIDTH), warm=True)
    seconds = {way: ways._batched(way, times).seconds for way in ways.all}
    for way in ways.all:
        if seconds[way] <= SLOWER * min(seconds.values()):
            yield {
                "solver": {"kind": way.kind, "window": way.window, "alternate": way.alternate},
                "compute": {"model_batch": ROWS, "time_ranks": way.time_ranks},
                "output": {"batch": -(-samples // (ranks // way.time_ranks))},
            }


def work(path: str) -> None:
    """The part of one rank: all choices for all numbers of samples; rank 0 returns the result."""
    setting = question(path)
    torch.set_num_threads(1)
    comm = MPICommunicator(world())
    load = loader(setting["device"], setting["wait"])
    load_model(MODEL).score(torch.zeros(1, 22, 3), torch.ones(1))  # the first call of a network is slow
    lines = []
    for samples in setting["samples"]:
        choices = [{}, *(setting["choices"] or fixed(setting["device"], setting["wait"], comm.size, samples))]
        seconds: list[float] = []
        for sections in choices:
            taken = [_run(comm, load, samples, sections) for _ in range(setting["repeats"])]
            seconds.append(min(one for one, _ in taken))
            if not sections:
                chosen = taken[0][1]
        best = min(range(1, len(choices)), key=lambda k: seconds[k])
        lines.append([samples, chosen, seconds[0], _words(choices[best]), seconds[best]])
    if comm.rank == 0:
        answer(path, lines)


def _run(comm: MPICommunicator, load: Any, samples: int, sections: dict[str, Any]) -> tuple[float, str]:
    """Seconds of a whole run, and a description of its choice."""
    folder = comm.bcast_object(tempfile.mkdtemp() if comm.rank == 0 else None)
    config = RunConfig.model_validate({"model": MODEL, "samples": samples, "out": f"{folder}/run", **sections})
    comm.barrier()
    start = time.perf_counter()
    with mock.patch.object(running, "load_model", load):
        running.execute(config)
    seconds = max(comm.gather_objects(time.perf_counter() - start))
    stored = tomllib.loads(Path(folder, "run", "run.toml").read_text())
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(folder)
    return seconds, _words(stored)


def _words(sections: dict[str, Any]) -> str:
    """A choice in words."""
    solver = sections["solver"]
    if solver["kind"] == "sequential":
        return "steps"
    shared = sections["compute"]["time_ranks"]
    whole = "every second point" if solver.get("alternate") else "sweeps"
    swept = f"window of {solver['window']}" if solver.get("window") else whole
    return swept if shared == "auto" else f"{swept}, {shared} time ranks"


def table(report: Report, device: str, options: Any) -> None:
    """The rows of one device, and the limit of each."""
    rows: list[list[Cell]] = []
    for ranks in options.ranks:
        setting = {"device": device, "wait": options.wait, "samples": options.samples, "choices": None}
        repeats = options.repeats if device == "shared" else 1
        for samples, chosen, taken, best, least in launch(__file__, ranks, {**setting, "repeats": repeats}):
            rows.append([ranks, samples, chosen, taken, best, least, taken / least])
            report.aims.append(
                at_most(f"{device}, {ranks} ranks, {samples} samples: over the best", taken / least, options.limit)
            )
        print(f"{device}, {ranks} ranks: done", file=sys.stderr, flush=True)
    report.add(f"Whole runs of the molecule, {DEVICES[device].format(wait=1e3 * options.wait)}", COLUMNS, rows)


def conformers(report: Report, options: Any) -> None:
    """200 conformers without any option against the best hand-set options, on one rank."""
    hand = [
        {"solver": {"kind": "sequential"}, "compute": {"model_batch": rows}, "output": {"batch": batch}}
        for rows, batch in ((64, 64), (512, 200))
    ]
    setting = {"device": "shared", "wait": 0.0, "samples": [options.conformers], "choices": hand, "repeats": options.repeats}
    samples, chosen, taken, best, least = launch(__file__, 1, setting)[0]
    report.add("Conformers without any option, one rank", COLUMNS, [[1, samples, chosen, taken, best, least, taken / least]])
    report.aims.append(at_most("conformers without options over the best hand-set options", taken / least, options.hand_set))


def main() -> int:
    options_parser = parser("Automatic choices of a run against the best fixed choice.")
    options_parser.add_argument("--wait", type=float, default=0.03, help="seconds that the emulated network takes")
    options_parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    options_parser.add_argument("--samples", type=int, nargs="+", default=list(SAMPLES))
    options_parser.add_argument("--devices", nargs="+", choices=list(DEVICES), default=list(DEVICES))
    options_parser.add_argument("--conformers", type=int, default=200, help="samples of the run without options")
    options_parser.add_argument("--repeats", type=int, default=3, help="runs on shared cores, of which the shortest counts")
    options_parser.set_defaults(limit=LIMIT, hand_set=HAND_SET)
    options = options_parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    if options.quick:
        options.wait, options.ranks, options.samples, options.devices = 0.005, [2], [1], ["rows"]
        options.conformers, options.repeats, options.limit, options.hand_set = 8, 1, 1e3, 1e3
    report = Report("auto")
    for device in options.devices:
        table(report, device, options)
    conformers(report, options)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
