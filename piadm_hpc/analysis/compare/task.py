"""The problem on which methods are compared: a score between two times, with draws and a measure of error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ... import integrators
from ...config.limits import MOST
from ...gaussian.reference import GaussianReference
from ...host.devices import require_device
from ...models.analytic import target_a, target_b, target_c
from ...models.base import ScoreModel
from ...models.card import load_model
from ...run.build import projection_of
from ...solvers.options import Options
from ...solvers.sampler import Sampler
from ...solvers.scheme import Scheme
from ...solvers.solve import Projection, Solution
from ...theory.chain import Chain
from ...theory.grid import TimeGrid, karras, log_snr, piadm
from ...theory.noise import PRIOR, Noise
from ...theory.process import OU, Process, forward_time

ANALYTIC: dict[str, Callable[[Process, int], Any]] = {"target-a": target_a, "target-b": target_b, "target-c": target_c}


@dataclass(eq=False)
class Task:
    """A score of a process between two forward times, and `samples` draws; errors are in units of `scale` (a number or [d]).

    `memory` caches results that several methods need, such as end states by chain.
    """

    name: str
    score: ScoreModel
    process: Process
    reference: GaussianReference
    ends: tuple[float, float]
    samples: int
    scale: float | Tensor = 1.0
    mask: Tensor | None = None
    project: Projection | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    model_batch: int | None = None
    memory: dict[Any, Any] = field(default_factory=dict)

    def grid(self, kind: str, steps: int) -> TimeGrid:
        """A grid of `steps` steps in log-SNR or of EDM, or the published grid with `steps` steps in a block of length one."""
        horizon, delta = self.ends
        if kind == "piadm":
            return piadm(self.process, horizon=horizon, delta=delta, step=1 / steps)
        make = {"log-snr": log_snr, "karras": karras}[kind]
        return make(self.process, steps, horizon=horizon, delta=delta)

    def chain(self, integrator: str, steps: int, *, eta: float, kind: str = "log-snr") -> Chain:
        """The chain of an integrator in one block, or in the published blocks on the published grid."""
        options = integrators.Options(eta=eta)
        return integrators.build(integrator, self.process, self.grid(kind, steps), reference=self.reference, options=options)

    def solve(self, chain: Scheme, **settings: Any) -> tuple[Solution, float]:
        """Solve a chain or a collocation for all samples; returns the solution and the seconds."""
        sampler = Sampler(
            chain,
            self.score,
            self.reference.event_shape,
            0,
            Options(scale=self.scale, model_batch=self.model_batch, **settings),
            reference=self.reference,
            project=self.project,
            dtype=self.dtype,
            device=self.device,
        )
        start = time.perf_counter()
        solution = sampler.draw(range(self.samples))
        solution.x.cpu()  # also waits for a device that works asynchronously
        return solution, time.perf_counter() - start

    def error(self, x: Tensor, truth: Tensor) -> Tensor:
        """Root mean square over entries with data, in units of the scale: [samples]; infinite for states that are not finite."""
        squared = ((x - truth).flatten(1) / self.scale).to(torch.float64).square()
        share = 1.0 if self.mask is None else float(self.mask.to(torch.float64).mean())
        return torch.sqrt(squared.mean(1) / share).nan_to_num(nan=float("inf"), posinf=float("inf")).cpu()

    def call_seconds(self, rows: int) -> float:
        """Seconds of a network call of `rows` rows, the shortest of three."""
        key = ("call", rows)
        if key not in self.memory:
            size = len(self.reference.mean)
            white = Noise(0, size, dtype=self.dtype, device=self.device).at([0], range(rows), 1, PRIOR)[0, :, 0]
            x = white.reshape(rows, *self.reference.event_shape)
            t = self.process.time(torch.full((rows,), 1.0, dtype=torch.float64)).to(x)
            self.memory[key] = min(self._timed(x, t) for _ in range(3))
        return float(self.memory[key])

    @torch.no_grad()
    def _timed(self, x: Tensor, t: Tensor) -> float:
        start = time.perf_counter()
        self.score(x, t).cpu()
        return time.perf_counter() - start


def make_task(name: str, *, samples: int, device: str = "cpu", model_batch: int | None = None, allow_code: bool = False) -> Task:
    """The task of a model folder or shipped model, or of a target with exact scores: `target-a`, `target-b:256` for d = 256.

    Raises ValueError for any other name, and for a device that this host does not have.
    """
    word, _, size = name.partition(":")
    require_device(device, "--device")
    if word not in ANALYTIC:
        model = load_model(name, device, allow_code=allow_code)
        ends = forward_time(model.process, torch.tensor([model.horizon, model.delta], dtype=torch.float64))
        return Task(
            model.name,
            model.score,
            model.process,
            model.reference,
            (float(ends[0]), float(ends[1])),
            samples,
            mask=model.mask,
            project=projection_of(model, device),
            device=device,
            model_batch=model_batch or 16,
        )
    if size and not (size.isdecimal() and 2 <= int(size) <= MOST):
        raise ValueError(f"{name!r}: give the number of modes after the colon, from 2 to {MOST}, for example {word}:256")
    target, delta = ANALYTIC[word](OU(), int(size or 1024)), 1e-3
    reference = target.reference()
    deviation = torch.sqrt(reference.spectrum + delta)
    return Task(name, target, OU(), reference, (8.0, delta), samples, deviation, dtype=torch.float64, model_batch=model_batch)
