"""Tuning of the scalars of an integrator on a calibration batch: lambda, lambda_s, score time, and exponent of the grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..integrators.catalogue import find
from ..models.card import Model
from ..models.registry import find_model
from ..models.target import states_like
from ..run.resolve import ResolvedRun, make_sampler, resolve
from .mmd import features, mmd
from .verify.conformers import load_conformers

By = Literal["auto", "error", "mmd"]
CANDIDATES: dict[str, tuple[Any, ...]] = {
    "grid.exponent": (1.0, 1.5, 2.0, 3.0),
    "chain.lam": (-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0),
    "chain.lam_s": (0.5, 1.0, 1.5, 2.0),
    "chain.score_time": ("now", "middle", "next", "ahead"),
}
# solvers of the converged flow, of second order, in data space and in phase space
CONVERGED = {"data": "dpmpp-2m", "phase": "gddim-ab2"}


@dataclass
class Tuning:
    """Result of a tuning: every setting tried and its score (lower is better), and shares of the score that are not Gaussian.

    `shares` are pairs of noise over signal and |s - s_G|^2 / |s|^2.
    """

    by: str
    calls: int
    tried: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    shares: list[tuple[float, float]] = field(default_factory=list)

    @property
    def best(self) -> tuple[dict[str, Any], float]:
        return min(self.tried, key=lambda one: one[1])

    def __str__(self) -> str:
        words = {"error": "distance to the converged flow, in deviations", "mmd": "squared discrepancy of features"}
        lines = [f"{self.calls} network calls; {words[self.by]}"]
        lines += [f"  {score:10.4g}  {_settings(one) or 'as configured'}" for one, score in self.tried]
        lines += ["share of the score that is not Gaussian, by noise over signal:"]
        lines += ["  " + "  ".join(f"{ratio:.3g}: {left:.2g}" for ratio, left in self.shares)]
        level = next((ratio for ratio, left in self.shares if left < 1e-2), None)
        if level is not None:
            lines.append(f"  below 1 % from {level:.3g} on: grid.teleport = {level:.3g}")
        options = " ".join(f"--set {key}={value}" for key, value in self.best[0].items())
        return "\n".join([*lines, f"best: {options or 'the configuration as it is'}"])


def tune(config: RunConfig, model: Model, *, samples: int, by: By = "auto", against: Tensor | None = None) -> Tuning:
    """Tune the scalars that the configured integrator reads, one after the other, keeping the best of each for the next.

    "error" is the distance to the converged probability flow from the same draws, for integrators without noise. "mmd" is the
    discrepancy of physical features from `against` (states [n, *event]), or else from converged samples of other ids. "auto"
    is "error" where that is defined. Unstable candidates have an infinite score. Raises ConfigError for "error" with noise.
    """
    run = resolve(config, model)
    config, sampler = run.config, run.sampler
    if by == "error" and sampler.chain.stochastic:
        raise ConfigError(f"{config.chain.method.name} is random: its samples have no converged flow to compare with; use mmd")
    chosen = ("mmd" if sampler.chain.stochastic else "error") if by == "auto" else by
    truth = converged(run, range(samples) if chosen == "error" else range(samples, 3 * samples))
    measured = truth if against is None or chosen == "error" else against
    tuning, best = Tuning(chosen, sum(sampler.step_counts)), dict[str, Any]()
    tuning.tried.append((best, _score(config, model, samples, chosen, measured)))
    for key in _keys(config):
        for candidate in CANDIDATES[key]:
            if candidate != _value(_with(config, best), key):
                settings = {**best, key: candidate}
                tuning.tried.append((settings, _score(_with(config, settings), model, samples, chosen, measured)))
        best = tuning.best[0]
    tuning.shares = gaussian_shares(model, truth)
    return tuning


def read_states(path: str | Path, folder: str | Path, model: Model) -> Tensor:
    """Fields or conformers of a file as states [n, *event] of the model in `folder`.

    Raises ValueError for a file that is not readable or does not fit the model.
    """
    if model.layout.topology is not None:
        return model.encode({"coordinates": load_conformers(Path(path), "calibration").positions})
    try:
        return states_like(find_model(folder), model, path)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be compared with the samples ({error})") from None


def converged(run: ResolvedRun, samples: range) -> Tensor:
    """Samples [n, *event] of the flow in the integrator's space, by a second-order method with ten times the steps."""
    method = run.config.chain.method
    name, steps = CONVERGED[method.space], max(200, 10 * run.grid.num_steps * method.calls)
    grid = {"kind": "log-snr", "steps": steps, "calls": None, "teleport": None, "blocks": "auto"}
    fine = run.config.replace(chain={"integrator": name, "lam": 0.0, "lam_s": 1.0, "score_time": "now"}, grid=grid)
    return _draw(fine, run.model, samples)


def gaussian_shares(model: Model, x: Tensor, levels: int = 12) -> list[tuple[float, float]]:
    """Pairs of noise over signal and |s - s_G|^2 / |s|^2 at states x [samples, *event] with noise added, in order of noise."""
    ends = torch.log(torch.tensor([model.delta, model.horizon], dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    wiener = model.wiener()
    noise, shares = wiener.white(x, generator).to(x), []
    for time in torch.exp(torch.linspace(float(ends[0]), float(ends[1]), levels, dtype=torch.float64)):
        t = time.expand(len(x))
        noised = wiener.noised(x, t, noise)
        score, gaussian = model.score(noised.clone(), t.clone()), wiener.score(noised, t)
        left = (score - gaussian).square().sum() / score.square().sum()
        shares.append((float(model.process.sigma(t[0]) / model.process.alpha(t[0])), float(left)))
    return shares


def _score(config: RunConfig, model: Model, samples: int, by: str, truth: Tensor) -> float:
    try:
        x = _draw(config, model, range(samples))
    except ConfigError:
        return math.inf
    if not bool(torch.isfinite(x).all()):
        return math.inf
    if by == "error":
        return float((x - truth).square().mean().sqrt())
    return mmd(features(x, model.reference), features(truth, model.reference))


def _draw(config: RunConfig, model: Model, samples: range) -> Tensor:
    return make_sampler(config.replace(solver={"kind": "sequential"}), model).draw(samples).x


def _keys(config: RunConfig) -> list[str]:
    """The keys that can be tuned in this configuration, the grid first."""
    reads = find(config.chain.method.name).reads
    grid = ["grid.exponent"] if config.grid.kind == "power" else []
    return [*grid, *(key for key in CANDIDATES if key.removeprefix("chain.") in reads)]


def _value(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _with(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return config.replace(**sections)


def _settings(settings: dict[str, Any]) -> str:
    return "  ".join(f"{key} = {value}" for key, value in settings.items())
