"""A few samples on one device with a real network: all points in one batch, compared with calls in sequence.

    python benchmarks/gpu.py                          the GPU if there is one, else the processor
    python benchmarks/gpu.py --bf16 --graphs          the network in bfloat16, recorded as CUDA graphs

A device that one row does not fill takes little longer for sixteen rows, so sweeps can pay even without a second device. The
flow is solved by collocation and by DPM-Solver++(2M) with the fewest steps that reach the same error against the converged
flow in float32; the SDE is solved on the default chain in sweeps and step by step. Errors are root mean squares in standard
deviations of the data. The first sample of every line warms up (and compiles) and is not timed.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import Cell, Report, at_least, at_most, median, parser
from torch import Tensor

from piadm_hpc import integrators, load_model
from piadm_hpc.config.run import RunConfig
from piadm_hpc.models.card import Model
from piadm_hpc.run.resolve import make_sampler
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.process import forward_time

TOL, CONVERGED, ROUGHLY = 1e-2, 1e-4, 1e-3
LADDER = (10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128)
COLUMNS = ("method", "samples", "rounds", "calls a sample", "ms a sample", "ms a round", "error", "times faster")
CALLS = ("rows in a call", "ms a call", "ms a row", "times one row's")


@dataclass(frozen=True)
class Timed:
    """End states and their cost: rounds, network calls a sample, seconds a sample."""

    x: Tensor
    rounds: int
    calls: float
    seconds: float


def sampler(model: Model, options: argparse.Namespace, **changes: Any) -> Sampler:
    """The package's sampler of the model on the device, compiled according to the options; one call takes all rows of a sweep."""
    compiled = "reduce-overhead" if options.graphs else "default" if options.compile else "off"
    compute = {"model_batch": options.rows, "autocast": "bfloat16" if options.bf16 else "off", "compile": compiled}
    compute |= changes.pop("compute", {})
    return make_sampler(RunConfig(model=options.model, compute=compute, **changes), model, options.device)


def timed(sampler: Sampler, count: int, repeats: int) -> Timed:
    """Draw samples 0 .. count - 1; the time is the median of the repeats after a first run that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        solution = sampler.draw(range(count))
        x = solution.x.cpu()  # waits for the device
        seconds.append((time.perf_counter() - start) / count)
    return Timed(x, int(solution.rounds.max()), float(solution.calls.double().mean()), median(seconds[1:] or seconds))


def step_by_step(sampler: Sampler, **changes: Any) -> Sampler:
    """The same sampler without sweeps."""
    return replace(sampler, options=replace(sampler.options, solver="sequential"), **changes)


def dpm(flow: Sampler, model: Model, steps: int) -> Sampler:
    """DPM-Solver++(2M) between the same ends, uniform in log-SNR as published."""
    ends = forward_time(model.process, flow.chain.t[[0, -1]])
    chain = integrators.dpmpp_2m(model.process, log_snr(model.process, steps, horizon=float(ends[0]), delta=float(ends[1])))
    return step_by_step(flow, chain=chain)


def error(x: Tensor, truth: Tensor) -> float:
    """Median error over samples."""
    return median((x - truth).flatten(1).square().mean(1).sqrt().tolist())


def flow_lines(model: Model, options: argparse.Namespace, count: int) -> list[tuple[str, Timed, float]]:
    """DPM-Solver++(2M) at equal error, and collocation."""
    exact = {"autocast": "off", "compile": "off"}
    ode = {"chain": {"eta": 0.0}, "solver": {"tol": TOL}}
    truth = timed(sampler(model, options, chain=ode["chain"], solver={"tol": options.converged}, compute=exact), count, 0).x
    flow = sampler(model, options, **ode)
    ours = timed(flow, count, options.repeats)
    own, level = error(ours.x, truth), 0.0
    for steps in LADDER:
        baseline = dpm(flow, model, steps)
        level = error(timed(baseline, count, 0).x, truth)
        if level <= max(own, TOL / 10):
            break
    sequential = timed(baseline, count, options.repeats)
    return [(f"flow: DPM-Solver++(2M), {steps} steps", sequential, level), ("flow: collocation", ours, own)]


def sde_lines(model: Model, options: argparse.Namespace, count: int) -> list[tuple[str, Timed, float]]:
    """The default chain step by step, and in sweeps."""
    chain = sampler(model, options, solver={"tol": TOL})
    sequential = timed(step_by_step(chain), count, options.repeats)
    ours = timed(chain, count, options.repeats)
    return [("SDE: step by step", sequential, 0.0), ("SDE: sweeps", ours, error(ours.x, sequential.x))]


def call_lines(sampler: Sampler, options: argparse.Namespace, sizes: tuple[int, ...]) -> list[list[Cell]]:
    """Time of one network call against its number of rows."""
    rows: list[list[Cell]] = []
    for size in sizes:
        x = torch.randn(size, *sampler.event_shape, device=sampler.device)
        t = sampler.chain.t[len(sampler.chain.t) // 2].to(x).expand(size)
        seconds = []
        for _ in range(options.repeats + 1):
            start = time.perf_counter()
            sampler.score(x, t).cpu()
            seconds.append(time.perf_counter() - start)
        spent = 1e3 * median(seconds[1:] or seconds)
        rows.append([size, spent, spent / size, spent / float(rows[0][1]) if rows else 1.0])
    return rows


def table(report: Report, model: Model, options: argparse.Namespace) -> None:
    rows: list[list[Cell]] = []
    on_gpu = options.device.startswith("cuda")
    for count in options.samples:
        for lines in (flow_lines(model, options, count), sde_lines(model, options, count)):
            sequential = lines[0][1]
            for label, result, distance in lines:
                faster = sequential.seconds / result.seconds
                milliseconds = [1e3 * result.seconds, 1e3 * result.seconds * count / result.rounds]
                rows.append([label, count, result.rounds, result.calls, *milliseconds, distance, faster])
            report.aims.append(at_most(f"error, {label}, {count} samples", distance, TOL))
            if on_gpu and count == 1:
                report.aims.append(at_least(f"times faster than sequential, {label}, one sample", faster, 1.0))
            print(f"{label}, {count} samples done", file=sys.stderr, flush=True)
    report.add(f"{model.name} on {device_name(options)}; sequential first, ours second", COLUMNS, rows)


def device_name(options: argparse.Namespace) -> str:
    """The device, and how the network runs on it."""
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device
    words = [
        word for word, asked in (("bfloat16", options.bf16), ("compiled", options.compile), ("graphs", options.graphs)) if asked
    ]
    return ", ".join([name, *(words or ["float32"])])


def _options() -> argparse.Namespace:
    options_parser = parser("Sampling in parallel over time on one device, with a real network.")
    options_parser.add_argument("--model", default="ccsm-temperature", help="a shipped model or a folder")
    options_parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:N")
    options_parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16], help="numbers of samples drawn at once")
    options_parser.add_argument("--repeats", type=int, default=5, help="timed repeats; the median counts")
    options_parser.add_argument(
        "--converged", type=float, default=CONVERGED, help="tolerance of the converged flow that errors refer to"
    )
    options_parser.add_argument("--rows", type=int, default=1024, help="largest number of rows in a network call")
    options_parser.add_argument("--bf16", action="store_true", help="the network in bfloat16")
    options_parser.add_argument("--compile", action="store_true", help="compile the network by torch.compile")
    options_parser.add_argument("--graphs", action="store_true", help="the same, and record it as CUDA graphs")
    return options_parser.parse_args()


def main() -> int:
    options = _options()
    sizes: tuple[int, ...] = (1, 4, 16, 48, 96)
    if options.quick:
        options.samples, options.repeats, options.converged, sizes = [1], 0, ROUGHLY, (1, 2)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, report = load_model(options.model, device=options.device), Report("gpu")
    with torch.no_grad():
        report.add(
            f"{model.name}, one network call on {device_name(options)}",
            CALLS,
            call_lines(sampler(model, options), options, sizes),
        )
        table(report, model, options)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
