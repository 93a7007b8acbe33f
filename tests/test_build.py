"""From a configuration to grid and chain: budgets, teleported grids, clocks, and chains that would diverge."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import make_model

from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.gaussian.reference import Response, Smoothness
from piadm_hpc.integrators import catalogue
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.run.build import make_reference
from piadm_hpc.run.resolve import make_sampler, resolve, with_defaults
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.resolution import FEWEST
from piadm_hpc.theory.bases import Identity
from piadm_hpc.theory.chebyshev import chebyshev_nodes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(make_model(tmp_path_factory.mktemp("models")))


def run(integrator: str, **grid: object) -> RunConfig:
    return RunConfig(model="m", chain={"integrator": integrator}, grid=grid)


def completed(config: RunConfig, model: Model) -> RunConfig:
    return with_defaults(config, model, make_reference(config, model))


@pytest.mark.parametrize("name", catalogue.INTEGRATORS)
def test_catalogue_and_chains_agree(model: Model, name: str) -> None:
    """Calls per step, channels, randomness and, for a budget of calls, the number of points are those of the catalogue."""
    method, config = catalogue.find(name), run(name, calls=60)
    chain = resolve(config, model).scheme
    nodes = 20 if name == "gms" else 60  # gms is a kernel that makes three calls at once
    assert chain.num_steps == nodes and chain.channels == method.channels
    assert chain.stochastic == (method.noise == "always" or (method.noise == "eta" and method.eta > 0))


def test_teleport_leaves_out_points_of_the_same_grid(model: Model) -> None:
    whole, part = (resolve(run("ddim", steps=20, teleport=t), model).grid for t in (None, 3.0))
    left = len(part.t)
    assert 2 < left < 21 and torch.equal(part.t, whole.t[-left:])
    ratio = model.process.sigma(part.t) / model.process.alpha(part.t)
    assert float(ratio[0]) <= 3.0 < float((model.process.sigma(whole.t) / model.process.alpha(whole.t))[-left - 1])
    with pytest.raises(ConfigError, match="leaves out every step"):
        resolve(run("ddim", steps=20, teleport=1e-6), model)


def test_the_prior_of_a_teleported_run_is_the_gaussians_flow_of_the_whole_runs_prior(model: Model) -> None:
    """The same seed gives the same member, carried over the omitted points in closed form."""
    whole, part = (make_sampler(run("ddim", steps=20, teleport=t), model) for t in (None, 3.0))
    first, later = whole.prior_states([5])[:, 0], part.prior_states([5])[:, 0]
    times = [sampler.chain.t[:1] for sampler in (whole, part)]
    carried = model.reference.flow(model.process, first.double(), *times)
    assert torch.allclose(carried.float(), later, atol=1e-4)


@pytest.mark.parametrize("exponent", [1.0, 2.0])
@pytest.mark.parametrize("name", ["ddim", "rse"])
def test_power_grids_run_on_the_integrators_own_clock(model: Model, name: str, exponent: float) -> None:
    from piadm_hpc.theory.grid import phase_clock, process_clock
    from piadm_hpc.theory.phase import PhaseSpace
    from piadm_hpc.theory.process import VP, forward_time

    made = resolve(run(name, kind="power", steps=10, exponent=exponent), model).grid
    clock = phase_clock(PhaseSpace()) if name == "rse" else process_clock(VP())
    u = clock.read(forward_time(model.process, made.t))
    steps = torch.diff(((u - u[-1]) / (u[0] - u[-1])).clamp(min=0) ** (1 / exponent))
    assert torch.allclose(steps, torch.full((10,), -0.1, dtype=torch.float64), atol=1e-5)


def test_unstable_chains_are_refused_with_a_way_out(model: Model) -> None:
    config = RunConfig(model="m", chain={"integrator": "cvv", "lam": 3.0}, grid={"calls": 8, "kind": "power"})
    with pytest.raises(ConfigError, match=r"'cvv' is unstable on this grid.*take more steps, or lam nearer to zero than 3\.0"):
        resolve(config, model)


def test_an_ode_is_collocated_and_takes_points_for_its_tolerance(model: Model) -> None:
    sde, ode = RunConfig(model="m"), RunConfig(model="m", chain={"eta": 0.0}, solver={"tol": 1e-3})
    assert (sde.chain.method.name, completed(sde, model).grid.steps) == ("gaussian-ab2", 24)
    assert (ode.chain.method.name, completed(ode, model).grid.steps) == ("collocation", 24)
    for given in ({"calls": 31}, {"steps": 9}, {"kind": "piadm"}):
        config = ode.replace(grid=given)
        assert completed(config, model) == config.replace(chain={"integrator": "collocation"})
    assert resolve(ode.replace(grid={"calls": 31}), model).grid.num_steps == 31


def test_a_card_says_what_suits_its_model(model: Model) -> None:
    """The card's settings apply only where the run has none of its own."""
    suited = replace(model, card={**model.card, "sampling": {"eta": 0.5, "steps": 24}})
    open_run, given = RunConfig(model="m"), RunConfig(model="m", chain={"eta": 1.0}, grid={"steps": 10})
    found = completed(open_run, suited)
    assert (found.chain.eta, found.grid.steps) == (0.5, 24) and completed(found, suited) == found
    assert completed(given, suited) == given.replace(chain={"integrator": "gaussian-ab2"})
    assert completed(open_run, model).chain.eta == 1.0
    assert make_sampler(open_run, suited).chain.num_steps == 24
    flow = replace(model, card={**model.card, "sampling": {"eta": 0.0, "steps": None}})
    assert completed(open_run, flow).chain.method.name == "collocation"
    assert isinstance(make_sampler(open_run, flow).chain, Collocation)
    two_step = replace(model, card={**model.card, "sampling": {"eta": 0.5, "flow": "gaussian-ab2", "steps": 24}})
    assert completed(open_run, two_step).chain.method.name == "gaussian-ab2"
    named = completed(RunConfig(model="m", chain={"integrator": "gaussian"}), two_step)
    assert (named.chain.eta, named.grid.steps) == (0.5, 48)  # the card's number of steps is for the default integrator
    found = completed(RunConfig(model="m", chain={"eta": 0.0}), two_step)
    assert (found.chain.integrator, found.grid.steps) == ("gaussian-ab2", 24)


def test_a_probed_model_takes_points_for_how_its_flow_varies(model: Model) -> None:
    """A linear remainder needs the fewest points; one that is small at high noise starts late; the card records both."""
    low, high = scheme_of(model).span
    x = torch.from_numpy(chebyshev_nodes(24))

    def resolved(remainder: torch.Tensor, **grid: object) -> RunConfig:
        response = Response(
            torch.tensor([-8.0, 8.0]), torch.ones(2, 1) / 2, Smoothness(low, high, torch.outer(remainder, remainder))
        )
        spectrum = model.reference.spectrum[:1]
        reference = replace(model.reference, basis=Identity(model.event_shape), spectrum=spectrum, response=response)
        config = RunConfig(model="m", chain={"eta": 0.0}, grid=grid)
        return completed(config, replace(model, reference=reference))

    line = resolved(0.01 * (2 + x))
    late = resolved(torch.exp(6 * x) / 400)
    assert line.grid.steps == FEWEST and late.grid.steps > FEWEST
    assert line.grid.teleport == pytest.approx(math.exp(-low / 2), rel=0.1) and late.grid.teleport < line.grid.teleport / 10
    assert completed(late, model) == late and resolved(2 + x, teleport=3.0).grid.steps == 16


def scheme_of(model: Model) -> Collocation:
    made = make_sampler(RunConfig(model="m", chain={"eta": 0.0}), model).chain
    assert isinstance(made, Collocation)
    return made


def test_a_teleported_flow_begins_where_it_was_told(model: Model) -> None:
    config = RunConfig(model="m", chain={"eta": 0.0}, grid={"teleport": 3.0})
    made = make_sampler(config, model).chain
    assert float(made.ratio[0]) == pytest.approx(3.0) and made.num_steps == 16
    with pytest.raises(ConfigError, match="leaves nothing of the flow"):
        make_sampler(config.replace(grid={"teleport": 1e-6}), model)
