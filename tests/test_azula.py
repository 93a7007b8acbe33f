"""Denoisers of azula as scores, models as denoisers of azula, and azula's guidance as an oracle for the package's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from azula.denoise import KarrasDenoiser
from azula.guidance.cfg import CFGDenoiser
from azula.noise import CosineSchedule, RectifiedSchedule, Schedule, VESchedule, VPSchedule
from azula.sample import DDIMSampler
from helpers import make_model
from torch import Tensor, nn

import piadm_hpc
from piadm_hpc.models.card import load_model
from piadm_hpc.theory.process import forward_time

F64 = torch.float64


class Backbone(nn.Module):
    """A smooth function of the state, the noise level and a label."""

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        shift = 0.0 if label is None else 0.3 * label[:, None]
        return torch.tanh(torch.roll(x, 1, -1) + noise.reshape(-1, 1) + shift)


SCHEDULES: list[Schedule] = [VESchedule(1e-2, 50.0), VPSchedule(), CosineSchedule(), RectifiedSchedule()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_times_of_a_schedule_are_found_and_its_own_sampler_agrees(schedule: Schedule) -> None:
    """DDIM on azula's times gives the samples of azula's own DDIM from the same states, to rounding."""
    denoiser = KarrasDenoiser(Backbone(), schedule)
    score, process = piadm_hpc.from_azula(denoiser)
    t = torch.linspace(0.02, 0.98, 9, dtype=F64)
    torch.testing.assert_close(process.time(forward_time(process, t)), t, atol=1e-9, rtol=0)
    steps = 12
    own = DDIMSampler(denoiser, start=0.95, stop=0.05, steps=steps, dtype=F64)
    grid = piadm_hpc.TimeGrid(torch.linspace(0.95, 0.05, steps + 1, dtype=F64), (0, steps))
    chain = piadm_hpc.integrators.ddim(process, grid)
    x = torch.randn(4, 6, dtype=F64, generator=torch.Generator().manual_seed(0)) * process.sigma(t[-1])
    found = piadm_hpc.solve(chain, score, x, piadm_hpc.Options(tol=1e-9))
    torch.testing.assert_close(found.x, own(x), atol=1e-6, rtol=1e-6)
    assert int(found.rounds.max()) <= steps


def test_conditions_are_keyword_arguments_and_guidance_is_azulas() -> None:
    denoiser = KarrasDenoiser(Backbone(), VESchedule(1e-2, 50.0))
    score, process = piadm_hpc.from_azula(denoiser)
    x, t = torch.randn(3, 6, dtype=F64), torch.tensor([0.3, 0.5, 0.8], dtype=F64)
    label, null = torch.tensor([1.0, 2.0, 3.0], dtype=F64), torch.zeros(1, dtype=F64)
    ours = piadm_hpc.guided(score, {"label": null}, 2.5)(x, t, {"label": label})
    # azula extrapolates from the conditional prediction, piadm_hpc from the unconditional one: weight = strength + 1
    mean = CFGDenoiser(denoiser)(x, t, positive={"label": label}, negative={"label": null.expand(3)}, guidance=1.5).mean
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    torch.testing.assert_close(ours, (alpha * mean - x) / sigma**2, atol=1e-9, rtol=1e-9)


def test_a_model_is_a_denoiser_of_azula_and_comes_back(tmp_path: Path) -> None:
    """azula's samplers draw from the wrapped model, and converted back its score is unchanged."""
    model = load_model(make_model(tmp_path))
    denoiser = piadm_hpc.to_azula(model)
    score, process = piadm_hpc.from_azula(denoiser)
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    own = torch.tensor([model.delta, model.horizon], dtype=F64)
    torch.testing.assert_close(process.sigma(ends), model.process.sigma(own))
    torch.testing.assert_close(process.alpha(ends), model.process.alpha(own))
    x, t = torch.randn(3, *model.event_shape), torch.tensor([0.1, 0.5, 0.9])
    times = model.process.time(forward_time(process, t.to(F64)))
    torch.testing.assert_close(score(x, t), model.score(x, times.float()), atol=1e-3, rtol=1e-3)

    first = float(model.process.sigma(own[1:])) * torch.randn(400, *model.event_shape, generator=torch.Generator().manual_seed(0))
    drawn = DDIMSampler(denoiser, start=1.0, stop=0.0, steps=40)(first)
    basis = model.reference.basis
    power = basis.to("cpu", F64).energy(basis.to("cpu", F64).analyse(drawn.to(F64).flatten(1) - model.reference.mean))
    strongest = int(model.reference.spectrum.argmax())
    assert float(power[strongest] / model.reference.spectrum[strongest]) == pytest.approx(1.0, abs=0.3)
