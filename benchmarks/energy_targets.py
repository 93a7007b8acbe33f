"""Errors of denoisers on held-out conformers against targets with and without energies, in nats, and gains between models.

    python benchmarks/energy_targets.py                                  # the shipped alanine dipeptide, OpenMM
    python benchmarks/energy_targets.py alanine-dipeptide my-tuned-model  # and the gain of another model of it

At a log-SNR the table shows half the signal-to-noise ratio times the mean square distance of the estimate from its target. The
integral of it over the log-SNR, less that of the best estimate, bounds the divergence of the model from the data (Song et al.
2021, Maximum likelihood training, theorem 1), so that a difference between two models is one in nats. Targets from energies
have the same mean and far less noise, so that small gains become visible.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from common import Report, at_most, parser
from torch import Tensor

from piadm_hpc.data.conformer_files import read_stored
from piadm_hpc.data.energies import EnergyConfig
from piadm_hpc.data.superpose import superposed
from piadm_hpc.models.card import HELD_OUT, Model, load_model
from piadm_hpc.models.registry import find_model
from piadm_hpc.models.training.energy_targets import EnergyTargets, conformer_targets
from piadm_hpc.models.training.evaluation import time_of
from piadm_hpc.theory.directions import orthogonal

LEVELS = range(-4, 11)  # of the log-SNR


def held_out(name: str, model: Model, count: int) -> Tensor:
    """States [count, atoms, 3] of held-out frames, drawn by weight."""
    stored = read_stored(find_model(name) / HELD_OUT)
    weight = np.exp(stored.log_weight - stored.log_weight.max())
    chosen = np.random.default_rng(1).choice(len(weight), count, p=weight / weight.sum())
    centre, scale = model.normalisation.mean[0], model.normalisation.scale[0]  # type: ignore[union-attr]
    states = torch.from_numpy((superposed(stored.positions[chosen].astype(np.float64), centre) - centre) / scale)
    return orthogonal(states, model.constraint).float()


def errors(model: Model, states: Tensor, targets: EnergyTargets, level: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Distances from the clean states and from the targets with energies, [n] in nats per unit of the log-SNR."""
    denoiser = model.denoiser
    assert denoiser is not None
    t = time_of(model.process, torch.full((len(states),), level, dtype=torch.float64))
    ratio = model.process.sigma(t) / model.process.alpha(t)
    with torch.no_grad():
        estimate = denoiser(denoiser.noised(states, t, noise), t)
    correction = targets.correction(torch.arange(len(states)), ratio, noise)
    both = [((estimate - target).double() ** 2).flatten(1).sum(1) / (2 * ratio**2) for target in (states, states + correction)]
    return both[0], both[1]


def main() -> int:
    options_parser = parser("Errors of denoisers on held-out conformers, with and without energies.")
    options_parser.add_argument("models", nargs="*", default=["alanine-dipeptide"], help="models of one molecule")
    options_parser.add_argument("--frames", type=int, default=1500, help="held-out frames of the first model")
    options = options_parser.parse_args()
    models = [load_model(name) for name in options.models]
    states = held_out(options.models[0], models[0], 60 if options.quick else options.frames)
    topology, normalisation, constraint = models[0].layout.topology, models[0].normalisation, models[0].constraint
    targets = conformer_targets(EnergyConfig(name="openmm"), states, normalisation, topology, constraint)  # type: ignore[arg-type]
    report, generator, rows = Report("energy targets"), torch.Generator().manual_seed(0), []
    gains = torch.zeros(len(models), len(states), dtype=torch.float64)
    for level in LEVELS:
        noise = torch.randn(states.shape, generator=generator)
        found = [errors(model, states, targets, float(level), noise) for model in models]
        gains += torch.stack([found[0][1] - own[1] for own in found])
        plain, energetic = (float(part.mean()) for part in found[0])
        rows.append([level, plain, energetic, plain / energetic])
        if level in (6, 8):
            what = f"log-SNR {level}: error against the target with energies over that against the frame"
            report.aims.append(at_most(what, energetic / plain, 0.5))
    report.add("Errors [nats per unit of log-SNR]", ("log-SNR", "against frames", "with energies", "ratio"), rows)
    if len(models) > 1:
        table = [
            [name, f"{float(gain.mean()):.3f} +- {float(gain.std()) / len(gain) ** 0.5:.3f}"]
            for name, gain in zip(options.models[1:], gains[1:], strict=True)
        ]
        report.add(f"Gain on {options.models[0]} [nats]", ("model", "gain"), table)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
