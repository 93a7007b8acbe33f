"""Rollouts: closed forms at every lead, pipelined and sequential leads, members alone and together, restarts, bad input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from conditional import KNOWN, ConditionalGaussian, ShiftedMixture
from helpers import call, on_ranks, one_line, piadm
from problems import F64, SIZE, chains
from test_conditional_models import make, write_world

import piadm_hpc
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.models.card import load_model
from piadm_hpc.run.conditions import require_conditions
from piadm_hpc.run.effort import ADDED
from piadm_hpc.schema.conditions import Condition
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.links import LeadEnded, Link
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.rollout import Rollout
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.solvers.solution import Stopped
from piadm_hpc.theory.process import OU

PROCESS = OU()
WORLD, MIXTURE = ConditionalGaussian(PROCESS, size=6), ShiftedMixture(PROCESS)
EARLY = 0.5  # threshold of the leads that are pipelined
FEW = Collocation(PROCESS, MIXTURE.target.reference(), 6.0, 1e-2, 5)  # too few points to resolve a lead, even twice as many


def linear(threshold: float | None, tol: float = 1e-8) -> Rollout:
    """A rollout of x[l+1] = mean + B (the first entries of x[l]) + noise along the flow."""
    chain = Collocation(PROCESS, WORLD.reference, 10.0, 1e-4, 16)
    sampler = Sampler(chain, WORLD.score, (6,), 7, Options(tol=tol), reference=WORLD.reference, dtype=F64)
    return Rollout(sampler, lambda past, links: past[:, -1, :KNOWN], threshold=threshold)


def given(past: torch.Tensor, links: Sequence[Link]) -> Condition:
    """A nonlinear shift that depends on the last two fields and on the lead, and the parity of the start."""
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
def test_every_member_and_lead_of_a_linear_gaussian_world_is_the_closed_form(threshold: float | None) -> None:
    """The flow keeps (x - alpha m) / sqrt(v), so that each lead is a linear function of its predecessor and its noise."""
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


def test_moments_at_every_lead_are_the_closed_form() -> None:
    """Mean and covariance of 400 members from one start agree within five standard errors."""
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


def bent(x: torch.Tensor, t: torch.Tensor, c: Any) -> torch.Tensor:
    """A student of the mixture, with an error of a hundredth."""
    return MIXTURE.score(x, t, c) * (1 + 0.01 * torch.sin(3 * x))


@pytest.mark.parametrize("options", [{}, {"in_flight": 3}, {"model_batch": 5}, {"student": bent}])
def test_pipelined_leads_are_those_of_the_solve_from_their_own_predecessor(options: dict[str, Any]) -> None:
    """For a mixture whose conditions depend on two leads, errors are within tol, in 43 % of the rounds of sequential leads."""
    past, leads, tol = fields(4), 6, 1e-3
    found = mixed(EARLY, tol=tol, **options).draw(past, leads, members=MEMBERS, starts=STARTS)
    tight = mixed(None, tol=1e-6)
    known = torch.cat([past, found.x], dim=1)
    for lead in range(leads):
        exact = tight.draw(known[:, lead : lead + 2], range(lead + 1, lead + 2), members=MEMBERS, starts=STARTS)
        assert float((found.x[:, lead] - exact.x[:, 0]).square().mean(1).sqrt().max()) < tol
    alone = mixed(None, tol=tol, **options).draw(past, leads, members=MEMBERS, starts=STARTS)
    if "student" in options:
        assert int(alone.rounds.sum()) < int(mixed(None, tol=tol).draw(past, leads, members=MEMBERS, starts=STARTS).rounds.sum())
    elif options.get("in_flight") is None:
        assert int(found.rounds.sum()) < 0.6 * int(alone.rounds.sum())
    assert bool((found.status <= 2).all()) and bool((found.residual <= tol).all())


@pytest.mark.parametrize("threshold", [None, EARLY])
def test_a_member_alone_and_after_a_restart_is_that_of_the_large_rollout(threshold: float | None) -> None:
    rollout, past = mixed(threshold, tol=1e-5), fields(4)
    large = rollout.draw(past, 5, members=MEMBERS, starts=STARTS)
    alone = rollout.draw(past[2:3], 5, members=MEMBERS[2:3], starts=STARTS[2:3])
    assert float((alone.x[0] - large.x[2]).abs().max()) < 1e-4
    later = rollout.draw(large.x[:, 1:3], range(4, 6), members=MEMBERS, starts=STARTS)
    assert float((later.x - large.x[:, 3:]).abs().max()) < 1e-4
    assert float((large.x[0] - large.x[1]).abs().max()) > 0.1


def test_chains_with_noise_make_rollouts_lead_by_lead() -> None:
    """Each lead is compared with its chain step by step; the first lead of start 0 is what a sampler draws for that condition."""
    chain = chains(PROCESS, MIXTURE.target.reference(), steps=12)["ddpm"]
    sampler = Sampler(chain, MIXTURE.score, (SIZE,), 3, Options(tol=1e-11), reference=MIXTURE.target.reference(), dtype=F64)
    past = fields(4)
    found = Rollout(sampler, given).draw(past, 3, members=MEMBERS, starts=STARTS)
    steps = Rollout(replace(sampler, options=Options(solver="sequential")), given)
    assert float((steps.draw(past, 3, members=MEMBERS, starts=STARTS).x - found.x).abs().max()) < 1e-8
    first = Rollout(sampler, given).links([0, 0], [0, 3], 1)
    plain = sampler.draw([0, 3], condition=given(past[:2], first))
    assert float((plain.x - found.x[:2, 0]).abs().max()) < 1e-9


def test_fields_of_a_model_of_residuals_are_what_later_leads_are_given() -> None:
    """A model of the residual x - m(c) gives the same forecasts as a model of x."""
    plain = linear(None)

    def score(x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        alpha, sigma = PROCESS.alpha(t.to(F64))[:, None], PROCESS.sigma(t.to(F64))[:, None]
        return -x / (alpha**2 * WORLD.variances + sigma**2)

    for threshold in (None, EARLY):
        residuals = Rollout(replace(plain.sampler, score=score), plain.given, lambda x, c: x + WORLD.expected(c), threshold)
        found = residuals.draw(fields(4, 1, 6), 4, members=MEMBERS, starts=STARTS)
        last = torch.cat([fields(4, 1, 6), found.x], dim=1)[:, :-1, :KNOWN]
        assert float((found.x - found.state - WORLD.mean - last @ WORLD.B.T).abs().max()) < 1e-10


@pytest.mark.parametrize("threshold", [None, EARLY])
def test_a_rollout_hands_out_its_leads_and_goes_on_after_a_stop(threshold: float | None) -> None:
    class Stopping:
        def __init__(self) -> None:
            self.leads: list[LeadEnded] = []

        def lead_ended(self, result: LeadEnded) -> None:
            self.leads.append(result)

        def should_stop(self) -> bool:
            return len(self.leads) == 2

    rollout, past, callback = mixed(threshold, tol=1e-5), fields(4), Stopping()
    with pytest.raises(Stopped):
        rollout.draw(past, 5, members=MEMBERS, starts=STARTS, callback=callback)
    assert [result.lead for result in callback.leads] == [1, 2]
    known = torch.stack([result.x for result in callback.leads], dim=1)
    rest = rollout.draw(known, range(3, 6), members=MEMBERS, starts=STARTS)
    whole = rollout.draw(past, 5, members=MEMBERS, starts=STARTS)
    assert float((torch.cat([known, rest.x], dim=1) - whole.x).abs().max()) < 1e-4


def test_leads_that_cannot_begin_early_wait() -> None:
    """With a threshold that no unconverged lead meets, a rollout costs exactly the NFE of sequential leads."""
    past = fields(4)
    waiting = mixed(1e-30).draw(past, 3, members=MEMBERS, starts=STARTS)
    alone = mixed(None).draw(past, 3, members=MEMBERS, starts=STARTS)
    assert torch.equal(waiting.calls, alone.calls) and torch.equal(waiting.rounds, alone.rounds)


def test_leads_after_a_truncated_range_wait() -> None:
    """With too few points every lead is truncated, and pipelining then costs hardly more NFE than sequential leads."""
    few = [replace(mixed(threshold), sampler=replace(mixed(threshold).sampler, chain=FEW)) for threshold in (EARLY, None)]
    early, alone = (rollout.draw(fields(4), 8, members=MEMBERS, starts=STARTS) for rollout in few)
    # a lead that is not truncated takes at most five rounds
    assert int(alone.rounds.min()) > 6 * 8
    assert int(early.calls.sum()) < 1.2 * int(alone.calls.sum())
    assert float((early.x[:, 0] - alone.x[:, 0]).square().mean(1).sqrt().max()) < 2e-3


def test_rollouts_that_do_not_fit_are_refused_with_all_mistakes() -> None:
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


@pytest.fixture(scope="module")
def forecasts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of months given the two before them and the month of the year, and a file of four starts."""
    folder = tmp_path_factory.mktemp("forecasts")
    write_world(folder)
    inputs = {"tas_1": {"kind": "lag"}, "tas_2": {"kind": "lag", "lag": 2}, "month": {"kind": "month"}}
    make(folder, "months", condition={"inputs": inputs})
    make(folder, "gap", condition={"inputs": {"tas_1": {"kind": "lag"}, "tas_3": {"kind": "lag", "lag": 3}}})
    with xr.open_dataset(folder / "fields.nc") as fields:
        fields.isel(time=slice(-5, None)).to_netcdf(folder / "starts.nc")
    return folder


def forecast(folder: Path, out: Path, **changes: Any) -> piadm_hpc.RunConfig:
    keys: dict[str, Any] = {"model": str(folder / "months"), "condition": {"file": str(folder / "starts.nc")}, "samples": 2}
    keys |= {"rollout": {"leads": 3}, "solver": {"tol": 1e-3}, "output": {"batch": 3}, "out": str(out)}
    return piadm_hpc.RunConfig(**{**keys, **changes})


def test_a_run_of_forecasts_is_starts_by_members_by_leads(forecasts: Path, tmp_path: Path) -> None:
    """With the command, a start or a member that is drawn alone is that of the large run, pipelined or lead by lead."""
    arguments = ["rollout", "--model", forecasts / "months", "--init", forecasts / "starts.nc", "--leads", 3, "--samples", 2]
    made = call(*arguments, "--tol", 1e-3, "--out", tmp_path / "large", "--set", "output.batch=3")
    assert made["code"] == 0, made
    with piadm_hpc.open(tmp_path / "large") as large:
        assert dict(large.tas.sizes) == {"init_time": 4, "realization": 2, "lead_time": 3, "lat": 8, "lon": 16}
        assert large.lead_time.values.tolist() == [1, 2, 3] and large.init_time.dtype.kind == "M"
        assert str(large.init_time.values[-1])[:7] == "2013-04"
        found = large.tas.load().values
    with xr.open_dataset(forecasts / "starts.nc") as starts:
        starts.isel(time=slice(1, 3)).to_netcdf(tmp_path / "one.nc")
    alone = forecast(
        forecasts, tmp_path / "alone", only=[1], condition={"file": str(tmp_path / "one.nc")},
        rollout={"leads": 3, "pipelined": "off"},
    )  # fmt: skip
    with piadm_hpc.sample(alone) as one:
        assert dict(one.tas.sizes) == {"init_time": 1, "realization": 1, "lead_time": 3, "lat": 8, "lon": 16}
        assert float(np.abs(one.tas.values[0, 0] - found[1, 1]).max()) < 1e-2
    assert float(np.abs(found[:, 0] - found[:, 1]).mean()) > 0.1


def test_an_array_over_starts_makes_the_forecasts_of_the_whole_run(forecasts: Path, tmp_path: Path) -> None:
    """Each job of an array draws one start of the file, with the members of the run of all starts; other starts are refused."""
    with piadm_hpc.sample(forecast(forecasts, tmp_path / "whole", output={"batch": 8})) as dataset:
        whole = dataset.tas.load()
    given = ("--model", forecasts / "months", "--condition", forecasts / "starts.nc", "--samples", 2, "--tol", 1e-3)
    given = (*given, "--set", "rollout.leads=3", "--cluster", "debug", "--out", tmp_path / "starts")
    done = call("submit", *given, "--array", "condition.only=1,3")
    assert done["code"] == 0, done
    parts = [piadm_hpc.open(tmp_path / "starts" / f"only-{number}").load() for number in (1, 3)]
    together = xr.concat(parts, "init_time").tas
    assert together.init_time.values.tolist() == whole.init_time.values[[1, 3]].tolist()
    assert together.dims == whole.dims and together.sizes["init_time"] == 2
    assert float(np.abs(together.values - whole.values[[1, 3]]).max()) < 1e-2
    assert float(np.abs(parts[0].tas.values - whole.values[:1]).mean()) > 0.1
    init = ("--model", forecasts / "months", "--init", forecasts / "starts.nc", "--leads", 3, "--out", tmp_path / "none")
    message = one_line(call("rollout", *init, "--set", "condition.only=4"), 2)
    assert "condition.only: there is no condition 4; its file holds 4, numbered from 0 to 3" in message
    message = one_line(call("submit", *given, "--set", "condition.only=[1, 1]"), 2)
    assert "condition.only: names a condition twice: 1, 1" in message
    message = one_line(call("submit", *given, "--set", "condition.only=1.5"), 2)
    assert "condition.only: " in message and "1.5" in message
    message = one_line(call("submit", *given, "--set", "condition.only=second"), 2)
    assert "condition.only: got 'second'; give numbers of conditions such as 0-3,7" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--array", "condition.only=2-5"], "condition.only: there is no condition 4, 5; its file holds 4, numbered from 0 to 3"),
        (["--set", "condition.only=4"], "condition.only: there is no condition 4; its file holds 4, numbered from 0 to 3"),
        (["--condition", "none.nc"], "none.nc: no such file"),
        (["--model", "ccsm-temperature"], "takes no condition; leave it out"),
        (["--condition", ""], "condition.file: must be text of at least 1 character"),
    ],
)
def test_conditions_that_a_file_lacks_are_refused_at_submission(
    forecasts: Path, tmp_path: Path, changes: list[str], words: str
) -> None:
    """All missing numbers that jobs of an array request are named at once, and no job starts."""
    given = ("--model", forecasts / "months", "--condition", forecasts / "starts.nc", "--out", tmp_path / "none")
    message = one_line(call("submit", *given, "--set", "rollout.leads=3", "--cluster", "local", *changes), 2)
    assert words in message and not (tmp_path / "none").exists()


def test_starts_of_one_date_are_forecast_apart(forecasts: Path, tmp_path: Path) -> None:
    """Two starts of one date differ in their month alone; together they would both have the inputs of the first."""
    with xr.open_dataset(forecasts / "starts.nc") as starts:
        tas, date = starts.tas.values, starts.time.values[1]
    twice = {f"tas_{lag}": (("time", "lat", "lon"), np.stack([tas[2 - lag]] * 2)) for lag in (1, 2)}
    coords = {"time": [date, date], "lat": starts.lat, "lon": starts.lon}
    xr.Dataset({**twice, "month": ("time", [2, 8])}, coords).to_netcdf(tmp_path / "twice.nc")
    run = forecast(forecasts, tmp_path / "run", condition={"file": str(tmp_path / "twice.nc")}, samples=1)
    with pytest.raises(ConfigError, match=r"several starts have one date: 0, 1 \(2013-01-01.*condition.only"):
        piadm_hpc.sample(run)
    apart = [run.replace(out=str(tmp_path / str(k)), condition={"only": [k]}) for k in range(2)]
    require_conditions(apart)
    february, august = (piadm_hpc.sample(each).tas.load().values for each in apart)
    assert float(np.abs(february - august).mean()) > 0.01
    with pytest.raises(ConfigError, match="several starts have one date"):
        require_conditions([*apart, run])


def test_a_start_cut_out_of_a_file_keeps_its_date_and_its_members(forecasts: Path, tmp_path: Path) -> None:
    """xarray's isel(time=1) leaves the date without a dimension; the start is the same, and so are its random numbers."""
    with xr.open_dataset(forecasts / "starts.nc") as starts:
        tas = starts.tas.load()
    lagged = {f"tas_{lag}": tas.isel(time=slice(2 - lag, 5 - lag)).assign_coords(time=tas.time[1:4]) for lag in (1, 2)}
    given = xr.Dataset({**lagged, "month": ("time", [2, 3, 4])})
    found = {}
    for name, part in (("slice", given.isel(time=[1])), ("point", given.isel(time=1))):
        part.to_netcdf(tmp_path / f"{name}.nc")
        run = forecast(forecasts, tmp_path / name, condition={"file": str(tmp_path / f"{name}.nc")}, samples=1)
        found[name] = piadm_hpc.sample(run).load()
    assert str(found["point"].init_time.values[0])[:7] == "2013-02"
    assert np.array_equal(found["point"].tas.values, found["slice"].tas.values)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([np.nan, np.nan, 0.3], "time is missing for the conditions 0, 1, counted from 0; fill it, or remove them"),
        (np.array(["2001-01", "NaT", "2001-03"], "datetime64[ns]"), "time is missing for the conditions 1, counted from 0"),
        ([], "holds no condition: time has no entries"),
    ],
)
def test_conditions_without_labels_are_refused(forecasts: Path, tmp_path: Path, labels: Any, words: str) -> None:
    """Labels that are missing tell neither conditions nor starts apart."""
    with xr.open_dataset(forecasts / "starts.nc") as starts:
        tas = starts.tas.isel(time=slice(0, len(labels))).load()
    given = xr.Dataset({"tas_1": tas, "tas_2": tas, "month": ("time", np.arange(1, len(labels) + 1))})
    given.assign_coords(time=labels).to_netcdf(tmp_path / "starts.nc", unlimited_dims=["time"])
    with pytest.raises(ConfigError) as caught:
        require_conditions([forecast(forecasts, tmp_path, condition={"file": str(tmp_path / "starts.nc")})])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kept", "words"), [([0, 1, 3, 4], "2012-12-01 to 2013-02-01"), ([0, 1, 1, 2], "2012-12-01 to 2012-12-01")]
)
def test_lags_of_fields_that_do_not_follow_each_other_are_refused(
    forecasts: Path, tmp_path: Path, kept: list[int], words: str
) -> None:
    """A month that is absent or there twice would shift the fields before it."""
    with xr.open_dataset(forecasts / "fields.nc") as fields:
        months = fields.isel(time=slice(-6, None)).isel(time=kept)
        months.to_netcdf(tmp_path / "starts.nc")
        fields.isel(time=slice(-6, -2)).to_netcdf(tmp_path / "whole.nc")
    runs = [forecast(forecasts, tmp_path, model=str(forecasts / "gap"), condition={"file": str(tmp_path / f"{name}.nc")})
            for name in ("whole", "starts")]  # fmt: skip
    require_conditions(runs[:1])
    with pytest.raises(ConfigError) as caught:
        require_conditions(runs)
    assert f"the fields do not follow each other along time: {words}" in str(caught.value)


def test_a_conditional_model_without_conditions_is_refused_at_submission(forecasts: Path, tmp_path: Path) -> None:
    """No job starts, also of an array; a model that another job is still to train is left to its own job."""
    given = ("submit", "--model", forecasts / "months", "--out", tmp_path / "none", "--cluster", "local")
    for array in ((), ("--array", "seed=0-1")):
        message = one_line(call(*given, *array), 2)
        assert "months is conditional on tas_1, tas_2, month: give condition.file (--condition FILE)" in message
    assert not (tmp_path / "none").exists()
    assert "months is conditional on" in one_line(call("plan", *given[1:5]), 2)
    require_conditions([RunConfig(model=str(tmp_path / "later"))])


def test_forecasts_go_on_after_any_lead_and_more_members_are_appended(forecasts: Path, tmp_path: Path) -> None:
    run = forecast(forecasts, tmp_path / "run")
    with piadm_hpc.sample(run) as dataset:
        whole = dataset.tas.load().values
    shards = sorted((tmp_path / "run" / "shards").glob("*.h5"))
    assert len(shards) == 9  # there are three batches of members, drawn lead by lead
    for shard in shards[1::2]:
        shard.unlink()
    with piadm_hpc.sample(run.replace(samples=3)) as again:
        assert again.sizes["realization"] == 3
        assert float(np.abs(again.tas.values[:, :2] - whole).max()) < 1e-2


def test_forecasts_go_on_after_a_rank_is_killed(forecasts: Path, tmp_path: Path) -> None:
    """Leads that were stored stay as they are, and the rest are those of a run that nobody disturbed."""
    arguments = ["rollout", "--model", forecasts / "months", "--init", forecasts / "starts.nc", "--leads", 3, "--samples", 2]
    for setting in ("output.batch=3", "compute.model_batch=8", "compute.time_ranks=2"):
        arguments += ["--set", setting]
    script = [
        {"args": [*arguments, "--tol", 1e-4, "--out", tmp_path / "whole"]},
        {
            "args": [*arguments, "--tol", 1e-4, "--out", tmp_path / "run"],
            "fault": {"kind": "kill", "rank": 1, "call": 50},
            "ends": True,
        },
    ]
    done, reports = on_ranks(2, tmp_path / "script", script, timeout=90)
    assert done.returncode != 0 and [report[0]["code"] for report in reports] == [0, 0]
    finished = {path.name: path.read_bytes() for path in (tmp_path / "run" / "shards").glob("*.h5")}
    assert 0 < len(finished) < 9
    again = piadm([*arguments, "--tol", 1e-4, "--out", tmp_path / "run"], ranks=2)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {name: (tmp_path / "run" / "shards" / name).read_bytes() for name in finished} == finished
    with piadm_hpc.open(tmp_path / "run") as found, piadm_hpc.open(tmp_path / "whole") as whole:
        assert float(np.abs(found.tas.values - whole.tas.values).max()) < 1e-3


def test_forecasts_are_verified_by_lead_against_dated_fields(forecasts: Path, tmp_path: Path) -> None:
    """Lead k is compared with the k-th month after the start; starts at the end of the file have fewer leads."""
    run = tmp_path / "run"
    with piadm_hpc.sample(forecast(forecasts, run)) as dataset:
        mean = dataset.tas.mean("realization").load()
    report = call("verify", run, "--truth", forecasts / "fields.nc")
    assert report["code"] == 0, report
    record = json.loads((run / "report" / "verify.json").read_text())["forecasts"]["tas"]
    with xr.open_dataset(forecasts / "fields.nc") as fields:
        truth = fields.tas.load()
    dates = truth.time.values.astype("datetime64[s]").tolist()
    area = np.cos(np.deg2rad(truth.lat))
    for k in range(3):
        places = [dates.index(date) + k + 1 for date in mean.init_time.values.astype("datetime64[s]").tolist()]
        known = [(start, place) for start, place in enumerate(places) if place < len(dates)]
        square = [(mean[start].isel(lead_time=k) - truth[place]) ** 2 for start, place in known]
        expected = [float(one.weighted(area).mean()) for one in square]
        assert record["rmse"][k] == pytest.approx(float(np.sqrt(np.mean(expected))), rel=1e-3)
    assert len(record["rank_histogram"][0]) == 3 and "forecasts by lead" in report["out"]


def test_forecasts_are_planned_with_all_their_leads(forecasts: Path, tmp_path: Path) -> None:
    """Sequential leads add up their costs; pipelined leads are in memory together."""
    arguments = ["--model", forecasts / "months", "--condition", forecasts / "starts.nc", "--set", "rollout.leads=6"]
    assert "8 forecasts of 6 leads on 2 ranks" in call("plan", *arguments, "--samples", 2, "--ranks", 2)["out"]

    def plan(leads: int, pipelined: str) -> Any:
        run = forecast(forecasts, tmp_path, rollout={"leads": leads, "pipelined": pipelined}, output={"batch": 8})
        return piadm_hpc.plan(run, ranks=1)

    one, long, early = plan(1, "off"), plan(6, "off"), plan(6, "on")
    assert (long.rounds, long.calls, long.num_samples) == (6 * one.rounds, 6 * one.calls, one.num_samples)
    assert early.calls == long.calls and early.output_bytes == 6 * one.output_bytes
    assert early.rounds == one.rounds + 5 * min(ADDED, one.rounds)
    assert early.memory_per_rank > long.memory_per_rank


def test_leads_are_given_their_month_and_the_fields_before_them(forecasts: Path, tmp_path: Path) -> None:
    """Each lead minus the mean given its two predecessors and its month is a draw from the Gaussian of the residuals."""
    with piadm_hpc.sample(forecast(forecasts, tmp_path / "run", samples=1)) as dataset:
        found = dataset.tas.values[0, 0].astype(np.float64)
    model = load_model(forecasts / "months")
    with xr.open_dataset(forecasts / "starts.nc") as starts:
        fields, month = [*starts.tas.values[:2].astype(np.float64), *found], int(starts.time.dt.month[1])
    assert model.conditioning is not None
    scale = model.reference.basis.expand(model.reference.spectrum.sqrt())
    for lead in range(3):
        inputs = {"tas_1": fields[lead + 1][None], "tas_2": fields[lead][None], "month": np.array([(month + lead) % 12 + 1])}
        left = model.encode({"tas": found[lead][None]}, model.conditioning.encode(inputs)).flatten(1).double()
        modes = model.reference.basis.analyse(left - model.reference.mean) / scale
        assert 0.6 < float(modes.square().mean()) < 1.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"condition": {}}, "rollout.leads: forecasts begin at fields; give condition.file (--init FILE)"),
        ({"rollout": {"leads": 3, "pipelined": "on"}, "chain": {"eta": 1.0}}, "only leads of the flow are pipelined"),
        ({"density": {"enabled": True}}, "rollout.leads: forecasts have no densities"),
    ],
)
def test_settings_that_forecasts_cannot_have_are_refused(
    forecasts: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError) as caught:
        forecast(forecasts, tmp_path, **changes)
    assert words in str(caught.value)


def test_models_that_leads_cannot_be_passed_on_to_are_refused(forecasts: Path, tmp_path: Path) -> None:
    arguments = ["rollout", "--init", forecasts / "starts.nc", "--out", tmp_path / "run"]
    lacking = one_line(call(*arguments, "--model", forecasts / "gap", "--leads", 2), 2)
    assert "at the lags 1, 3; leads after the first need all lags from 1 to 3" in lacking
    twice = one_line(call(*arguments, "--condition", forecasts / "fields.nc", "--model", forecasts / "months", "--leads", 2), 2)
    assert "--init and --condition both name the file of starts; give one of them" in twice
    unsaid = one_line(call(*arguments, "--model", forecasts / "months"), 2)
    assert "say how many leads to forecast, with --leads N" in unsaid
