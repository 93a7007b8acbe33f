"""Rollouts: closed forms at every lead, pipelined and lead by lead, members alone and together, restarts, bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conditional import KNOWN, ConditionalGaussian, ShiftedMixture
from problems import F64, SIZE, chains

from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.rollout import Rollout
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.solvers.solution import Stopped
from piadm_hpc.theory.process import OU

PROCESS = OU()
WORLD, MIXTURE = ConditionalGaussian(PROCESS, size=6), ShiftedMixture(PROCESS)
EARLY = 0.5  # threshold of the leads that are pipelined


def linear(threshold: float | None, tol: float = 1e-8) -> Rollout:
    """x[l+1] = mean + B (the first numbers of x[l]) + noise, solved along the flow."""
    chain = Collocation(PROCESS, WORLD.reference, 10.0, 1e-4, 16)
    sampler = Sampler(chain, WORLD.score, (6,), 7, Options(tol=tol), reference=WORLD.reference, dtype=F64)
    return Rollout(sampler, lambda past, links: past[:, -1, :KNOWN], threshold=threshold)


def given(past, links):
    """A shift that depends on the last two fields and on the lead, and the parity of the start: not linear in anything."""
    season = torch.tensor([[0.3 * (link.lead % 3)] for link in links], dtype=past.dtype)
    shift = 0.7 * torch.tanh(past[:, -1].roll(1, -1) - 0.4 * past[:, -2]) + season
    return {"map": {"shift": shift}, "sign": torch.tensor([link.start % 2 for link in links])}


def mixed(threshold: float | None, *, tol: float = 1e-3, **options: object) -> Rollout:
    """Samples of a mixture around a function of the two fields before them."""
    reference = MIXTURE.target.reference()
    chain = Collocation(PROCESS, reference, 6.0, 1e-2, 28)
    sampler = Sampler(chain, MIXTURE.score, (SIZE,), 3, Options(tol=tol, **options), reference=reference, dtype=F64)
    return Rollout(sampler, given, threshold=threshold)


def fields(samples: int, order: int = 2, size: int = SIZE) -> torch.Tensor:
    return torch.randn(samples, order, size, dtype=F64, generator=torch.Generator().manual_seed(4))


STARTS, MEMBERS = [0, 0, 1, 5], [0, 3, 0, 2]


@pytest.mark.parametrize("threshold", [None, EARLY])
def test_every_member_and_lead_of_a_linear_gaussian_world_is_the_closed_form(threshold):
    """The flow keeps (x - alpha m) / sqrt(v), so that each lead is a line in its predecessor and its own noise."""
    rollout, leads, past = linear(threshold), 5, fields(4, 1, 6)
    found = rollout.draw(past, leads, members=MEMBERS, starts=STARTS)
    times = rollout.sampler.chain.t[[0, -1]]
    alpha, sigma = PROCESS.alpha(times)[:, None], PROCESS.sigma(times)[:, None]
    root = torch.sqrt(alpha**2 * WORLD.variances + sigma**2)
    x = past[:, -1]
    for lead in range(leads):
        noise = rollout.noise_of(rollout.links(STARTS, MEMBERS, lead + 1))
        first = rollout.sampler.prior_states(range(4), noise)[:, 0]
        mean = WORLD.expected(x[:, :KNOWN])
        x = alpha[1] * mean + root[1] / root[0] * (first - alpha[0] * mean)
        assert float((found.x[:, lead] - x).abs().max()) < 1e-6


def test_moments_at_every_lead_are_the_closed_form():
    """Mean and covariance of 400 members from one start, each within five standard errors."""
    members, leads = 400, 3
    past = fields(1, 1, 6).expand(members, -1, -1)
    found = linear(EARLY, tol=1e-3).draw(past, leads, members=range(members)).x
    mean, cov, B = past[0, -1], torch.zeros(6, 6, dtype=F64), torch.nn.functional.pad(WORLD.B, (0, 6 - KNOWN))
    for lead in range(leads):
        mean = WORLD.mean + B @ mean
        cov = B @ cov @ B.T + torch.diag(WORLD.variances)
        spread = cov.diag().sqrt()
        assert bool(((found[:, lead].mean(0) - mean).abs() < 5 * spread / members**0.5).all())
        error = (torch.cov(found[:, lead].T) - cov).abs() / (spread[:, None] * spread)
        assert float(error.max()) < 5 * (2 / members) ** 0.5


@pytest.mark.parametrize("options", [{}, {"in_flight": 3}, {"model_batch": 5}])
def test_pipelined_leads_are_those_of_the_solve_from_their_own_predecessor(options):
    """On a mixture, with conditions that depend on two leads: within tol, in 43 % of the rounds of one made lead by lead."""
    past, leads, tol = fields(4), 6, 1e-3
    found = mixed(EARLY, tol=tol, **options).draw(past, leads, members=MEMBERS, starts=STARTS)
    tight = mixed(None, tol=1e-6)
    known = torch.cat([past, found.x], dim=1)
    for lead in range(leads):
        exact = tight.draw(known[:, lead : lead + 2], range(lead + 1, lead + 2), members=MEMBERS, starts=STARTS)
        assert float((found.x[:, lead] - exact.x[:, 0]).square().mean(1).sqrt().max()) < tol
    alone = mixed(None, tol=tol, **options).draw(past, leads, members=MEMBERS, starts=STARTS)
    if options.get("in_flight") is None:
        assert int(found.rounds.sum()) < 0.6 * int(alone.rounds.sum())
    assert bool((found.status <= 2).all()) and bool((found.residual <= tol).all())


@pytest.mark.parametrize("threshold", [None, EARLY])
def test_a_member_alone_and_after_a_restart_is_that_of_the_large_rollout(threshold):
    rollout, past = mixed(threshold, tol=1e-5), fields(4)
    large = rollout.draw(past, 5, members=MEMBERS, starts=STARTS)
    alone = rollout.draw(past[2:3], 5, members=MEMBERS[2:3], starts=STARTS[2:3])
    assert float((alone.x[0] - large.x[2]).abs().max()) < 1e-4
    later = rollout.draw(large.x[:, 1:3], range(4, 6), members=MEMBERS, starts=STARTS)
    assert float((later.x - large.x[:, 3:]).abs().max()) < 1e-4
    assert float((large.x[0] - large.x[1]).abs().max()) > 0.1


def test_chains_with_noise_make_rollouts_lead_by_lead():
    """Against each lead solved step by step; the first lead of start 0 is what the sampler draws with that condition."""
    chain = chains(PROCESS, MIXTURE.target.reference(), steps=12)["ddpm"]
    sampler = Sampler(chain, MIXTURE.score, (SIZE,), 3, Options(tol=1e-11), reference=MIXTURE.target.reference(), dtype=F64)
    past = fields(4)
    found = Rollout(sampler, given).draw(past, 3, members=MEMBERS, starts=STARTS)
    steps = Rollout(replace(sampler, options=Options(solver="sequential")), given)
    assert float((steps.draw(past, 3, members=MEMBERS, starts=STARTS).x - found.x).abs().max()) < 1e-8
    first = Rollout(sampler, given).links([0, 0], [0, 3], 1)
    plain = sampler.draw([0, 3], condition=given(past[:2], first))
    assert float((plain.x - found.x[:2, 0]).abs().max()) < 1e-9


def test_fields_of_a_model_of_residuals_are_what_later_leads_are_given():
    """x = m(c) + residual: the same forecasts as of the model of x itself."""
    plain = linear(None)

    def score(x, t, c):
        alpha, sigma = PROCESS.alpha(t.to(F64))[:, None], PROCESS.sigma(t.to(F64))[:, None]
        return -x / (alpha**2 * WORLD.variances + sigma**2)

    for threshold in (None, EARLY):
        residuals = Rollout(replace(plain.sampler, score=score), plain.given, lambda x, c: x + WORLD.expected(c), threshold)
        found = residuals.draw(fields(4, 1, 6), 4, members=MEMBERS, starts=STARTS)
        last = torch.cat([fields(4, 1, 6), found.x], dim=1)[:, :-1, :KNOWN]
        assert float((found.x - found.state - WORLD.mean - last @ WORLD.B.T).abs().max()) < 1e-10


@pytest.mark.parametrize("threshold", [None, EARLY])
def test_a_rollout_hands_out_its_leads_and_goes_on_after_a_stop(threshold):
    class Stopping:
        def __init__(self):
            self.leads = []

        def lead_ended(self, result):
            self.leads.append(result)

        def should_stop(self):
            return len(self.leads) == 2

    rollout, past, callback = mixed(threshold, tol=1e-5), fields(4), Stopping()
    with pytest.raises(Stopped):
        rollout.draw(past, 5, members=MEMBERS, starts=STARTS, callback=callback)
    assert [result.lead for result in callback.leads] == [1, 2]
    known = torch.stack([result.x for result in callback.leads], dim=1)
    rest = rollout.draw(known, range(3, 6), members=MEMBERS, starts=STARTS)
    whole = rollout.draw(past, 5, members=MEMBERS, starts=STARTS)
    assert float((torch.cat([known, rest.x], dim=1) - whole.x).abs().max()) < 1e-4


def test_leads_that_cannot_begin_early_wait():
    """With a threshold that no unconverged lead meets, a rollout takes the calls of one made lead by lead, and no more."""
    past = fields(4)
    waiting = mixed(1e-30).draw(past, 3, members=MEMBERS, starts=STARTS)
    alone = mixed(None).draw(past, 3, members=MEMBERS, starts=STARTS)
    assert torch.equal(waiting.calls, alone.calls) and torch.equal(waiting.rounds, alone.rounds)


def test_rollouts_that_do_not_fit_are_refused_with_all_mistakes():
    chain = chains(PROCESS, MIXTURE.target.reference())["ddim"]
    with pytest.raises(ValueError) as caught:
        Rollout(Sampler(chain, MIXTURE.score, (SIZE,), 0, Options(tol=None, sweeps=3)), given, threshold=-1.0)
    for words in ("threshold = -1 must be positive", "give a Collocation", "give options.tol"):
        assert words in str(caught.value)
    bad = torch.full((3, 1, SIZE), float("nan"), dtype=F64)
    with pytest.raises(ValueError) as caught:
        mixed(None).draw(bad, range(3, 3), members=[0, 0], starts=[-1, -1])
    for words in (
        "past is [3, 1, 12] for 2 samples; give their last fields [2, order, 12]",
        "past contains numbers that are not finite",
        "leads = range(3, 3): give a number of leads from 1",
        "starts are whole numbers from 0",
        "two samples are the same member of the same start",
    ):
        assert words in str(caught.value)
