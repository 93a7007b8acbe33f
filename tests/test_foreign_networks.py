"""Networks of other packages that work in place, return other shapes, are random, expect other times, or need code to run.

All of them approximate one Gaussian of variance 0.25 in EDM's convention, whose samples are known.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import random
import re
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tomli_w
import torch
import xarray as xr
from helpers import call, one_line
from problems import solve
from torch import Tensor, nn

import piadm_hpc
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.models.fingerprint import fingerprint
from piadm_hpc.run.resolve import make_sampler
from piadm_hpc.solvers.arguments import SolverName
from piadm_hpc.solvers.errors import ScoreError

VARIANCE = 0.25
GRID = (4, 8)
EDM = 'kind = "edm"\nhorizon = 80.0\ndelta = 0.01'
Net = Callable[..., Any]


def level(t: Tensor) -> Tensor:
    return t.reshape(-1, 1, 1, 1)


def denoised(x: Tensor, t: Tensor) -> Tensor:
    """E[x_0 | x] of the Gaussian, with a bounded remainder so that sweeps have something to do."""
    weight = VARIANCE / (VARIANCE + level(t) ** 2)
    return weight * x + 0.05 * weight * torch.tanh(torch.roll(x, 1, -1))


def eps(x: Tensor, t: Tensor) -> Tensor:
    return (x - denoised(x, t)) / level(t)


def scale_in_place(x: Tensor, t: Tensor) -> Tensor:
    answer = denoised(x, t)
    return x.copy_(answer)


def input_destroyed(x: Tensor, t: Tensor) -> Tensor:
    answer = denoised(x, t)
    x.zero_()
    return answer


def time_in_place(x: Tensor, t: Tensor) -> Tensor:
    answer = denoised(x, t)
    t.square_()
    return answer


def eps_in_place(x: Tensor, t: Tensor) -> Tensor:
    answer = eps(x, t)
    return x.copy_(answer)


def score_in_place(x: Tensor, t: Tensor) -> Tensor:
    answer = -eps(x, t) / level(t)
    x.add_(1.0)
    t.zero_()
    return answer


class OwnBuffer(nn.Module):
    """A network that returns the same tensor from every call, as recorded CUDA graphs do."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers_by_rows: dict[int, Tensor] = {}

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        buffer = self.buffers_by_rows.setdefault(len(x), torch.empty_like(x))
        return buffer.copy_(-eps(x, t) / level(t))


@pytest.fixture(autouse=True)
def networks() -> Iterator[types.ModuleType]:
    """A module that networks of a test are put into, to be named in adapter.toml."""
    module = types.ModuleType("nets_of_a_test")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def adapter(
    folder: Path, network: Net | None = None, *, channels: int = 1, predicts: str = "x0", time: str = "sigma", **more: Any
) -> Path:
    """Make a folder with an adapter.toml; `keys` are further lines of its section network."""
    folder.mkdir(parents=True, exist_ok=True)
    if network is not None:
        sys.modules["nets_of_a_test"].net = network  # type: ignore[attr-defined]
    where = more.get("where", 'callable = "nets_of_a_test:net"')
    head = f'name = "{folder.name}"\ngrid = {list(more.get("grid", GRID))}\nvariance = {VARIANCE}\n{more.get("head", "")}\n'
    section = f'[network]\n{where}\npredicts = "{predicts}"\ntime = "{time}"\n{more.get("keys", "")}\n'
    schedule = f"[schedule]\n{more.get('schedule', EDM)}\n"
    fields = "".join(f'[[channels]]\nname = "c{k}"\nunits = "K"\n' for k in range(channels))
    (folder / "adapter.toml").write_text(head + section + schedule + fields)
    return folder


def drawn(folder: Path, count: int = 4, model: Model | None = None, **sections: Any) -> Any:
    values = {"model": str(folder), "grid": {"steps": 16}, "chain": {"integrator": "ddpm"}, **sections}
    model = model or load_model(folder, allow_code=True)
    return make_sampler(RunConfig.model_validate(values), model).draw(range(count))


def message(folder: Path) -> str:
    with pytest.raises(ConfigError) as found:
        load_model(folder, allow_code=True)
    text = str(found.value)
    assert text.startswith(str(folder / "adapter.toml")) and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("network", "predicts"),
    [
        (scale_in_place, "x0"),
        (input_destroyed, "x0"),
        (time_in_place, "x0"),
        (eps_in_place, "eps"),
        (score_in_place, "score"),
        (OwnBuffer(), "score"),
    ],
    ids=["scaled", "destroyed", "time", "eps", "score", "buffer"],
)
def test_networks_that_work_in_place_give_the_same_samples(tmp_path: Path, network: Net, predicts: str) -> None:
    clean = adapter(tmp_path / "clean", denoised)
    model = load_model(clean, allow_code=True)
    right = {kind: drawn(clean, model=model, solver={"kind": kind, "tol": 1e-4}).x for kind in ("picard", "sequential")}
    other = load_model(adapter(tmp_path / "other", network, predicts=predicts), allow_code=True)
    for kind, x in right.items():
        found = drawn(tmp_path / "other", model=other, solver={"kind": kind, "tol": 1e-4}, compute={"model_batch": 3})
        assert float((found.x - x).abs().max()) < 1e-3 and bool(found.converged.all()), kind


class Fickle(torch.nn.Module):
    """A predictor of the noise with the fault that `fault` names, at first none."""

    fault = ""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        clean = eps(x, t)
        if self.fault == "chance":
            return clean + 0.1 * torch.randn_like(clean)
        return clean - 0.5 * clean.mean(0) if self.fault == "batch" else clean


@pytest.mark.parametrize("kind", ["picard", "sequential"])
@pytest.mark.parametrize(("fault", "words"), [("chance", "returns different results"), ("batch", "depends on the other states")])
def test_a_network_that_changes_after_loading_is_noticed_when_a_run_begins(
    tmp_path: Path, fault: str, words: str, kind: str
) -> None:
    network = Fickle()
    model = load_model(adapter(tmp_path / "a", network, predicts="eps"), allow_code=True)
    network.fault = fault
    with pytest.raises(ScoreError, match=words):
        drawn(tmp_path / "a", model=model, solver={"kind": kind})


@pytest.mark.parametrize("rows", [1, 3])
def test_the_state_that_is_tried_twice_changes_no_sample_and_costs_one_call(tmp_path: Path, rows: int) -> None:
    calls = list[int]()

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        return denoised(x, t)

    model = load_model(adapter(tmp_path / "a", counted), allow_code=True)
    keys = {"solver": {"kind": "sequential"}, "compute": {"model_batch": rows}}
    sampler = make_sampler(RunConfig.model_validate({"model": str(tmp_path / "a"), "grid": {"steps": 16}, **keys}), model)
    plain = replace(sampler, score=sampler.score.score)  # type: ignore[attr-defined]
    counts, samples = [], []
    for one in (plain, sampler):
        calls.clear()
        samples.append(one.draw(range(3)).x)
        counts.append(len(calls))
    assert torch.equal(*samples) and counts[1] == counts[0] + 1


def test_a_score_of_ones_own_that_works_in_place_gives_the_same_result() -> None:
    """The library is used directly, without an adapter or a wrapper; rows are divided among several calls."""
    process = piadm_hpc.OU()
    chain = piadm_hpc.integrators.ddpm(process, piadm_hpc.grid.log_snr(process, 12, horizon=6.0, delta=1e-2))
    x0 = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = piadm_hpc.Noise(0, 6, dtype=torch.float64)

    def clean(x: Tensor, t: Tensor) -> Tensor:
        return -x + 0.1 * torch.tanh(torch.roll(x, 1, -1))

    def dirty(x: Tensor, t: Tensor) -> Tensor:
        answer = clean(x, t)
        x.zero_()
        t.fill_(torch.nan)
        return answer

    def same(x: Tensor, t: Tensor) -> Tensor:
        return x.copy_(clean(x, t))

    buffers: dict[int, Tensor] = {}

    def buffered(x: Tensor, t: Tensor) -> Tensor:
        return buffers.setdefault(len(x), torch.empty_like(x)).copy_(clean(x, t))

    for solver in get_args(SolverName):
        for options in ({}, {"window": 4}, {"project": lambda x: x}, {"project": lambda x: x * 1.0}):
            if "window" in options and solver != "picard":
                continue
            want = solve(chain, clean, x0, noise=noise, tol=1e-8, solver=solver, **options)
            for score, rows in ((dirty, 5), (same, 5), (buffered, 5), (buffered, None)):
                found = solve(chain, score, x0, noise=noise, tol=1e-8, solver=solver, model_batch=rows, **options)
                torch.testing.assert_close(found.x, want.x, atol=1e-10, rtol=0)


class Wrapped:
    """The output of networks of diffusers, an object with the field `sample`."""

    def __init__(self, sample: Tensor):
        self.sample = sample


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda x, t: denoised(x, t)[:, :1], r"returned \[2, 1, 4, 8\] for states \[2, 2, 4, 8\]"),
        (lambda x, t: torch.cat([denoised(x, t)] * 2, 1), r"returned \[2, 4, 4, 8\].*return the first half of the channels"),
        (lambda x, t: denoised(x, t).mean((1, 2, 3), keepdim=True), r"returned \[2, 1, 1, 1\]"),
        (lambda x, t: denoised(x, t)[:1], r"returned \[1, 2, 4, 8\]"),
        (lambda x, t: denoised(x, t).flatten(1), r"returned \[2, 64\]"),
        (lambda x, t: denoised(x, t).to(torch.complex64), "returned torch.complex64 .* real floating numbers"),
        (lambda x, t: denoised(x, t).round().long(), "returned torch.int64"),
        (
            lambda x, t: Wrapped(denoised(x, t)),
            "returned Wrapped, not a tensor; return the tensor that it holds in its",
        ),
        (lambda x, t: (denoised(x, t),), "returned tuple, not a tensor; .* as its first entry"),
        (lambda x, t: denoised(x, t).numpy(), "returned ndarray, not a tensor"),
        (lambda x, t: None, "returned NoneType, not a tensor"),
        (lambda x, t: torch.nan * x, "numbers that are not finite at time"),
        (lambda x: x, r"the network fails when it is called with states \[2, 2, 4, 8\]: TypeError"),
        (Wrapped, "is a class; name an instance of it, or a function"),
    ],
)
def test_outputs_are_checked_before_any_arithmetic(tmp_path: Path, network: Net, words: str) -> None:
    assert re.search(words, message(adapter(tmp_path / "a", network, channels=2)))


@pytest.mark.parametrize("predicts", ["score", "eps", "x0", "v", "flow"])
@pytest.mark.parametrize("shape", [lambda x: x[:, :1], lambda x: x.mean((1, 2, 3), keepdim=True), lambda x: x * 1j])
def test_wrapped_networks_are_checked_whatever_they_predict(predicts: Any, shape: Net) -> None:
    score = piadm_hpc.wrap(lambda x, t: shape(x), predicts=predicts, process=piadm_hpc.VP())
    with pytest.raises(RuntimeError, match=r"the network returned"):
        score(torch.ones(2, 3, 4, 4), torch.full((2,), 0.5))


def test_networks_whose_answers_cannot_be_relied_on(tmp_path: Path) -> None:
    """The faults are active dropout or batch norm, times broadcast along the last axis, and a counter; the error names them."""
    drop, calls = nn.Dropout(0.1), [0]

    def counting(x: Tensor, t: Tensor) -> Tensor:
        calls[0] += 1
        return denoised(x, t) * (1 + 0.01 * (calls[0] % 3))

    assert "different results for the same states" in message(adapter(tmp_path / "a", lambda x, t: drop(denoised(x, t))))
    assert "different results for the same states" in message(adapter(tmp_path / "a", counting))
    centred = adapter(tmp_path / "b", lambda x, t: denoised(x - x.mean(0, keepdim=True), t))
    assert "depends on the other states of the call" in message(centred)
    forgot = adapter(tmp_path / "c", lambda x, t: x * VARIANCE / (VARIANCE + t**2), grid=(4, 2))
    assert "depends on the other states of the call" in message(forgot)
    sized = adapter(tmp_path / "d", lambda x, t: denoised(x, t) * (1 + x.std(0).mean()))
    assert "depends on the other states of the call" in message(sized)


class Recorder(nn.Module):
    """The exact eps of unit variance, which records its arguments."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))
        self.seen: list[tuple[torch.dtype, torch.dtype, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x.dtype, t.dtype, t.clone()))
        return self.weight * x


@pytest.mark.parametrize(
    ("weights", "keys", "states", "times"),
    [
        (torch.float32, "", torch.float32, torch.float32),
        (torch.float64, "", torch.float64, torch.float64),
        (torch.float16, "", torch.float16, torch.float32),
        (torch.bfloat16, "", torch.bfloat16, torch.float32),
        (torch.float32, 'dtype = "float64"', torch.float64, torch.float64),
        (torch.float32, 'time_dtype = "float64"', torch.float32, torch.float64),
        (torch.float16, 'time_dtype = "float16"', torch.float16, torch.float16),
        (torch.float32, 'time_dtype = "int64"', torch.float32, torch.int64),
        (torch.float32, "time_scale = 0.001", torch.float32, torch.float32),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_states_and_times_come_as_the_file_says(
    tmp_path: Path, weights: torch.dtype, keys: str, states: torch.dtype, times: torch.dtype, precision: str
) -> None:
    network = Recorder(weights)
    schedule = 'kind = "linear"\nsteps = 1000'
    folder = adapter(tmp_path / "a", network, predicts="eps", time="index", keys=keys, schedule=schedule)
    drawn(folder, compute={"precision": precision}, solver={"sweeps": 2})
    assert {(x, t) for x, t, _ in network.seen} == {(states, times)}
    largest = max(float(t.max()) for *_, t in network.seen)
    assert largest == pytest.approx(0.999 if "scale" in keys else 999)


def test_a_network_of_whole_indices_gives_its_gaussian(tmp_path: Path) -> None:
    """eps of a Gaussian is read from a table by index, so that it is exact only at the noise levels of whole indices."""
    squared = torch.cumprod(1 - torch.linspace(1e-3, 0.2, 60, dtype=torch.float64), 0)
    table = (torch.sqrt(1 - squared) / (squared * VARIANCE + 1 - squared)).to(torch.float32)
    folder = adapter(
        tmp_path / "a",
        lambda x, k: level(table[k]) * x,
        predicts="eps",
        time="index",
        keys='time_dtype = "int64"',
        schedule='kind = "linear"\nsteps = 60\nbeta_start = 1e-3\nbeta_end = 0.2',
    )
    model = load_model(folder, allow_code=True)
    for chain in ({"integrator": "gaussian"}, {"eta": 0.0}, {"integrator": "ddpm"}):
        for steps in (24, 400):  # points that share an index are merged
            sampler = make_sampler(RunConfig.model_validate({"model": "a", "chain": chain, "grid": {"steps": steps}}), model)
            assert bool((sampler.chain.t == sampler.chain.t.round()).all()) and len(sampler.chain.t) <= 61
    found = drawn(folder, 256, model=model, chain={"integrator": "gaussian"}, compute={"precision": "float64"})
    # the chain of a Gaussian that is its own reference is solved by the first sweep, which a second one certifies where the
    # network rounds to single precision, and ends with the noise of index 0
    assert bool((found.rounds <= 2).all())
    end = math.sqrt(float(squared[0]) * VARIANCE + 1 - float(squared[0]))
    assert float(found.x.std()) == pytest.approx(end, rel=0.02)
    for integrator in ("collocation", "gms", "sscs"):
        with pytest.raises(ValueError, match="this network takes whole indices"):
            drawn(folder, 1, model=model, chain={"integrator": integrator})


def unet(folder: Path) -> None:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    model.save_pretrained(folder)


SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
}


def pipeline(folder: Path, network: str = "", schedule: str | None = None, **changes: Any) -> Path:
    """Make a model folder with a pipeline of diffusers, whose scheduler is SCHEDULER with changes."""
    if not (folder / "unet").is_dir():
        unet(folder / "unet")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**SCHEDULER, **changes}))
    section = "" if schedule is None else f"[schedule]\n{schedule}\n"
    text = f'name = "u"\ngrid = [8, 8]\n[network]\ndiffusers = "unet"\n{network}\n{section}[[channels]]\nname = "u"\n'
    (folder / "adapter.toml").write_text(text)
    return folder


def test_the_scheduler_of_a_diffusers_folder_is_read(tmp_path: Path) -> None:
    """Its schedule, rescaled to zero terminal SNR, and its prediction are used without --allow-code, since no code runs."""
    from diffusers import DDIMScheduler

    model = load_model(pipeline(tmp_path / "u"))
    theirs = DDIMScheduler.from_config(SCHEDULER).alphas_cumprod
    t = torch.tensor([0.0, 10.0, 500.0, 998.0], dtype=torch.float64)
    torch.testing.assert_close(model.process.alpha(t) ** 2, theirs[t.long()].double(), rtol=1e-3, atol=1e-7)
    assert model.horizon == 998 and model.card["network"]["predicts"] == "v"
    assert bool(torch.isfinite(drawn(tmp_path / "u", 1, model=model, grid={"steps": 4}).x).all())
    model = load_model(pipeline(tmp_path / "u", trained_betas=[0.01, 0.02, 0.4], rescale_betas_zero_snr=False))
    torch.testing.assert_close(model.process.alpha(t[:1]) ** 2, torch.tensor([0.99], dtype=torch.float64))
    # a key of adapter.toml may repeat what the scheduler says
    load_model(
        pipeline(tmp_path / "u", 'predicts = "v"', 'kind = "scaled-linear"\nsteps = 1000\nzero_snr = true\nbeta_end = 0.012')
    )


@pytest.mark.parametrize(
    ("network", "schedule", "changes", "words"),
    [
        ('predicts = "eps"', None, {}, "network.predicts = 'eps', the scheduler has 'v'"),
        ("", 'kind = "linear"', {}, "schedule.kind = 'linear', the scheduler has 'scaled-linear'"),
        ("", "steps = 500", {}, "schedule.steps = 500, the scheduler has 1000"),
        ("", 'kind = "scaled-linear"\nbeta_end = 0.02', {}, "schedule.beta_end = 0.02, the scheduler has 0.012"),
        ("", 'kind = "scaled-linear"\nzero_snr = false', {}, "schedule.zero_snr = False, the scheduler has True"),
        ("", None, {"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid' cannot be expressed here"),
        ("", None, {"prediction_type": "x"}, "prediction_type = 'x' cannot be expressed here"),
        ("", None, {"variance_type": "learned_range"}, "variance_type = 'learned_range' cannot be expressed here"),
        ("", None, {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, "'EDMEulerScheduler' cannot be expressed here"),
        ("", None, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "schedule.horizon and schedule.delta"),
    ],
)
def test_contradictions_to_the_scheduler_are_refused(
    tmp_path: Path, network: str, schedule: str | None, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as found:
        load_model(pipeline(tmp_path / "u", network, schedule, **changes))
    assert words in str(found.value)


def test_a_damaged_scheduler_or_unet_is_one_line(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "u")
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"scheduler_config\.json: not a readable JSON file"):
        load_model(folder)
    pipeline(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="diffusers cannot load a UNet2DModel"):
        load_model(folder)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ('kind = "edm"\nhorizon = 0.01\ndelta = 80.0', "schedule.delta = 80 must be less than schedule.horizon = 0.01"),
        ('kind = "edm"\nhorizon = 80.0', "schedule.delta: schedule.kind = 'edm' needs schedule.horizon and schedule.delta"),
        ('kind = "edm"\nhorizon = 80.0\ndelta = 0.0', "schedule.delta = 0: there is no noise at that time"),
        ('kind = "flow"\nhorizon = 1.0\ndelta = 0.001', "schedule.horizon = 1: nothing of the data is left"),
        ('kind = "flow"\nhorizon = 1.5\ndelta = 0.001', "schedule.horizon = 1.5: the times of schedule.kind = 'flow' end at 1"),
        ('kind = "vp"\nhorizon = 1000.0\ndelta = 1.0', "schedule.horizon = 1000: the times of schedule.kind = 'vp' end at 1"),
        ('kind = "ou"\nhorizon = 2000.0\ndelta = 0.1', "schedule.horizon = 2000: nothing of the data is left"),
        (
            'kind = "linear"\nsteps = 100\nhorizon = 100.0',
            "the times of schedule.kind = 'linear' end at 99",
        ),
        ('kind = "linear"\nsteps = 100\nzero_snr = true\nhorizon = 99.0', "end at 98"),
        ('kind = "linear"\nbeta_start = 0.02\nbeta_end = 1e-4', "beta_start = 0.02 must be less than beta_end = 0.0001"),
        ('kind = "cosine"\nbeta_end = 0.1', "beta_end: kind = 'cosine' does not read it"),
        ('kind = "edm"\nsteps = 100\npower = 3.0\nhorizon = 80.0\ndelta = 0.1', "steps, power: kind = 'edm' does not read them"),
        ('kind = "betas"', "kind = 'betas' needs betas"),
        ('kind = "scaled_linear"', "did you mean 'scaled-linear'?"),
    ],
)
def test_messages_about_a_schedule_name_its_keys(tmp_path: Path, schedule: str, words: str) -> None:
    assert words in message(adapter(tmp_path / "a", denoised, schedule=schedule))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": "index"}, "network.time = 'index' needs a schedule of indices"),
        ({"time": "fraction"}, "network.time = 'fraction' needs a schedule of indices"),
        ({"keys": 'time_dtype = "int64"'}, "it goes with time = 'index'"),
        ({"keys": "time_scale = 0.0"}, "time_scale = 0 would give"),
        ({"keys": "node_mask = true"}, "network.node_mask belongs to atoms"),
        ({"head": "allow_code = true"}, "allow_code: unknown key"),
        ({"head": 'mask = "sea"'}, "mask = 'sea' is read from the file `coordinates`"),
        ({"head": 'dims = ["x", "x"]'}, "the axes need different names"),
        ({"head": 'coordinates = "absent.nc"'}, "absent.nc: no such file"),
    ],
)
def test_messages_about_an_adapter_name_its_keys(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_model(adapter(tmp_path / "a", denoised, **changes), allow_code=True)
    assert words in str(found.value)


def test_a_grid_beyond_the_schedule_is_refused(tmp_path: Path) -> None:
    """A run may choose horizon and delta within the range of noise levels for which the network's schedule has an index."""
    schedule = 'kind = "linear"\nsteps = 100\nbeta_start = 1e-3\nbeta_end = 0.2'
    folder = adapter(tmp_path / "a", lambda x, t: 0.5 * x, predicts="eps", time="index", schedule=schedule)
    for grid in ({"horizon": 40.0}, {"delta": 1e-6}):
        with pytest.raises(ValueError, match="the schedule has indices 0 to 99"):
            drawn(folder, 1, grid={"steps": 8, **grid})


def write_grid(folder: Path, **changes: Any) -> Path:
    """Make a folder with grid.nc, which holds coordinates and a mask with land in one corner."""
    folder.mkdir(parents=True, exist_ok=True)
    sea = np.ones(GRID)
    sea[:2, 3:5] = 0
    lat = changes.get("lat", np.linspace(60, -60, GRID[0]))
    lon = changes.get("lon", np.arange(GRID[1]) * 45.0)
    coords = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    xr.Dataset({"sea": (("lon", "lat"), changes.get("sea", sea).T)}, coords).to_netcdf(folder / "grid.nc")
    return folder


HEAD = 'dims = ["lat", "lon"]\ncoordinates = "grid.nc"\nmask = "sea"'


def test_coordinates_mask_and_attributes_lie_in_the_folder(tmp_path: Path) -> None:
    """On land the network sees zeros and the file has NaN; the file has the coordinates and attributes of the grid."""
    land: list[float] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        land.append(float(x[..., :2, 3:5].abs().max()))
        return denoised(x, t)

    folder = adapter(write_grid(tmp_path / "a"), network, head=HEAD)
    text = (folder / "adapter.toml").read_text()
    (folder / "adapter.toml").write_text(f'{text}long_name = "temperature"\nstandard_name = "air_temperature"\nscale = 10.0\n')
    report = call(
        "sample", "--model", folder, "--samples", 3, "--out", tmp_path / "run", "--set", "grid.steps=12", "--allow-code"
    )
    assert report["code"] == 0, report
    assert max(land) == 0
    with piadm_hpc.open(tmp_path / "run") as dataset:
        assert np.array_equal(np.isnan(dataset.c0.values[0]), xr.open_dataset(folder / "grid.nc").sea.values.T == 0)
        assert dataset.c0.attrs["standard_name"] == "air_temperature" and dataset.c0.attrs["long_name"] == "temperature"
        np.testing.assert_array_equal(dataset.lat.values, np.linspace(60, -60, GRID[0]))
        assert dataset.lat.attrs["units"] == "degrees_north" and "cell_weight" not in dataset
        fields = dataset[["c0"]].load()
    model = load_model(folder, allow_code=True)
    states = model.encode({"c0": fields.c0.values})
    assert float(states[..., :2, 3:5].abs().max()) == 0
    np.testing.assert_allclose(model.decode(states)["c0"], fields.c0.values, rtol=1e-5)


def test_rows_that_are_no_latitudes_have_equal_weights(tmp_path: Path) -> None:
    """Without coordinates rows are numbered 0, 1, ..., which are not degrees north."""
    model = load_model(adapter(tmp_path / "a", denoised), allow_code=True)
    np.testing.assert_array_equal(model.layout.coordinates["cell_weight"].values, np.ones(GRID[0]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lat": np.arange(4.0)[[0, 2, 1, 3]]}, "lat neither rises nor falls"),
        ({"lon": np.array([0, 1, 2, 3, 4, 5, 6, np.nan])}, "lon has values that are not finite"),
        ({"sea": np.zeros(GRID)}, "the mask sea leaves no point with data"),
    ],
)
def test_a_grid_file_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_model(adapter(write_grid(tmp_path / "a", **changes), denoised, head=HEAD), allow_code=True)


def test_a_grid_file_of_another_grid_names_everything(tmp_path: Path) -> None:
    folder = adapter(write_grid(tmp_path / "a"), denoised, head=HEAD.replace("sea", "land"), grid=(4, 9))
    with pytest.raises(ConfigError, match=r"lon has shape \[8\].*grid = 9 there; no variable land, the mask; there are sea"):
        load_model(folder, allow_code=True)


COMMANDS = (
    ("sample", "--model", "{model}", "--out", "{out}"),
    ("plan", "--model", "{model}"),
    ("tune", "--model", "{model}"),
    ("compare", "{model}", "--out", "{out}"),
    ("reference", "{model}"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_code_of_a_model_folder_does_not_run_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """A module next to adapter.toml leaves a mark when it is imported, as does a pickle in a torch.export file."""
    monkeypatch.syspath_prepend(tmp_path)
    mark = tmp_path / "mark"
    folder = adapter(tmp_path / "code", where='callable = "code_in_a_folder:net"')
    (tmp_path / "code_in_a_folder.py").write_text(f"open({str(mark)!r}, 'w')\ndef net(x, t): return 0 * x\n")
    words = [word.format(model=folder, out=tmp_path / "out") for word in command]
    text = one_line(call(*words), 2)
    assert text.startswith(f"{folder}/adapter.toml: network.callable") and "--allow-code" in text and not mark.exists()
    folder = adapter(tmp_path / "exported", where='exported = "net.pt2"', keys="rows = 2", predicts="eps")
    poison(folder / "net.pt2", mark)
    words = [word.format(model=folder, out=tmp_path / "out") for word in command]
    text = one_line(call(*words), 2)
    assert "network.exported = 'net.pt2' unpickles a file" in text and not mark.exists()


class Zero(nn.Module):
    """A network that returns half of its input."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x


class Poison:
    """An object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.mark),)


def poison(path: Path, mark: Path) -> None:
    """Write a file of torch.export whose sample inputs run code when they are unpickled."""
    honest, evil = path.with_name("honest.pt2"), io.BytesIO()
    torch.export.save(torch.export.export(Zero(), (torch.zeros(2, 1, *GRID), torch.zeros(2))), honest)
    torch.save(Poison(mark), evil)
    with zipfile.ZipFile(honest) as read, zipfile.ZipFile(path, "w") as write:
        for name in read.namelist():
            write.writestr(name, evil.getvalue() if "sample_inputs" in name else read.read(name))


def test_the_mark_is_left_when_code_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This shows that the previous test can fail."""
    mark = tmp_path / "mark"
    folder = adapter(tmp_path / "exported", where='exported = "net.pt2"', keys="rows = 2", predicts="eps")
    poison(folder / "net.pt2", mark)
    try:
        load_model(folder, allow_code=True)
    except ValueError:
        pass  # the unpickled object is not a pair of sample inputs
    assert mark.exists()


def test_weights_of_a_unet_are_never_unpickled(tmp_path: Path) -> None:
    """If there are no safetensors, diffusers reads pickled weights with a loader that executes nothing."""
    folder, mark = pipeline(tmp_path / "u"), tmp_path / "mark"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Poison(mark)}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="diffusers cannot load a UNet2DModel"):
        load_model(folder)
    assert not mark.exists()


def test_allow_code_stands_in_the_run(tmp_path: Path) -> None:
    """The key is valid in run.toml and unknown in a model folder; a report needs a permission of its own."""
    folder = adapter(tmp_path / "a", denoised)
    config = tmp_path / "run.toml"
    config.write_text(f'model = "{folder}"\nsamples = 2\nout = "{tmp_path}/run"\nallow_code = true\ngrid.steps = 8\n')
    assert call("sample", config)["code"] == 0
    assert "--allow-code" in one_line(call("report", tmp_path / "run"), 2)
    assert call("report", tmp_path / "run", "--allow-code")["code"] == 0
    # members do not depend on the permission: the same run continues without the key if the flag is given
    config.write_text(config.read_text().replace("allow_code = true\n", ""))
    assert call("sample", config, "--allow-code", "--samples", 3)["code"] == 0


def test_a_network_that_changes_between_two_calls_of_a_run_is_noticed(tmp_path: Path, networks: types.ModuleType) -> None:
    """Weights, a constant of its module or a closure may have changed; an unchanged network continues the run."""

    def start(network: Net, name: str) -> list[object]:
        folder = adapter(tmp_path / name, network)
        words = ["sample", "--model", folder, "--out", tmp_path / f"run-{name}", "--set", "grid.steps=6", "--allow-code"]
        assert call(*words, "--samples", 1)["code"] == 0
        assert call(*words, "--samples", 2)["code"] == 0
        return [*words, "--samples", 3]

    weights = Recorder(torch.float32)
    again = start(weights, "weights")
    with torch.no_grad():
        weights.weight.mul_(0.9)
    assert_changed(again)

    factor = {"value": 1.0}
    again = start(lambda x, t: factor["value"] * denoised(x, t), "closure")
    factor["value"] = 0.9
    assert_changed(again)

    code = "import torch\nMODE = 'plain'\n\ndef net(x, t):\n    return (0.5 if MODE == 'plain' else 0.4) * x\n"
    exec(code, vars(networks))
    again = start(networks.net, "constant")
    networks.MODE = "other"
    assert_changed(again)


def assert_changed(words: list[object]) -> None:
    report = call(*words)
    assert report["code"] == 1 and "model_sha256" in report["err"] and "Traceback" not in report["err"], report


def test_fingerprints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint depends on the source, not on a counter or the order of memory, and names the objects it cannot cover."""
    monkeypatch.syspath_prepend(tmp_path)
    source = (
        "import torch\nCALLS = 0\nSCALE = 2.0\n\ndef net(x, t):\n    global CALLS\n    CALLS += 1\n    return SCALE * helper(x)\n"
    )
    helper = "\ndef helper(x):\n    return x + 1\n"

    def written(text: str) -> tuple[str, tuple[str, ...]]:
        (tmp_path / "printed_network.py").write_text(text)
        sys.modules.pop("printed_network", None)
        import printed_network

        printed_network.net(1.0, 0.0)
        return fingerprint(printed_network.net)

    first, unseen = written(source + helper)
    assert unseen == () and written(source + helper)[0] == first
    assert written(source + helper.replace("+ 1", "+ 2"))[0] != first
    assert written(source.replace("2.0", "3.0") + helper)[0] != first
    torch.manual_seed(0)
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    assert fingerprint(one)[0] != fingerprint(other)[0]
    other.load_state_dict(one.state_dict())
    assert fingerprint(one)[0] == fingerprint(other)[0]
    assert fingerprint(one.forward)[0] == fingerprint(other.forward)[0]
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(3)]
    assert fingerprint(pools[0])[0] != fingerprint(pools[1])[0]
    generator = torch.Generator()
    assert "generator" in fingerprint(lambda x, t: generator)[1][0]


def test_report_verify_and_reference_work_on_adapters(tmp_path: Path) -> None:
    """Figures and scores have the units of the channel, and the next run reads the Jacobian diagonal that was probed."""
    folder = adapter(write_grid(tmp_path / "a"), denoised, head=HEAD)
    run = tmp_path / "run"
    words = ["sample", "--model", folder, "--samples", 4, "--allow-code", "--set", "grid.steps=12"]
    assert call(*words, "--out", run)["code"] == 0
    with piadm_hpc.open(run) as dataset:
        fields = dataset[["c0"]].load().rename(realization="time").drop_vars("time")
    fields.to_netcdf(tmp_path / "real.nc")
    report = call("report", run, "--allow-code", "--against", tmp_path / "real.nc", "--baselines", 1)
    assert report["code"] == 0 and "area mean [K]" in report["out"] and (run / "report.png").stat().st_size > 10_000
    assert "has no card.toml to write scores into" in one_line(call("report", run, "--allow-code", "--card"), 2)
    report = call("verify", run, "--against", tmp_path / "real.nc")
    assert report["code"] == 0 and "extremes" in report["out"] and report["err"] == ""
    assert load_model(folder, allow_code=True).reference.response is None
    assert call("reference", folder, "--samples", 2, "--levels", 6, "--allow-code")["code"] == 0
    model = load_model(folder, allow_code=True)
    assert model.reference.response is not None and model.reference.response.smoothness is not None
    assert call("reference", folder, "--data", tmp_path / "real.nc", "--out", tmp_path / "fit.h5", "--allow-code")["code"] == 0
    assert call(*words, "--out", tmp_path / "other", "--set", f"solver.reference={tmp_path}/fit.h5")["code"] == 0


def test_fields_of_several_components_have_a_figure_of_each(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", denoised, channels=2)
    text = (folder / "adapter.toml").read_text().replace('name = "c1"', 'name = "wind"\nsize = 2')
    (folder / "adapter.toml").write_text(text)
    run = tmp_path / "run"
    assert call("sample", "--model", folder, "--out", run, "--samples", 2, "--allow-code", "--set", "grid.steps=8")["code"] == 0
    report = call("report", run, "--allow-code")
    assert report["code"] == 0 and "no figure" not in report["out"], report
    assert {file.name for file in run.glob("report*component*.png")} == {f"report-wind_wind_component{k}.png" for k in range(2)}


MOLECULES = """
name = "m"
atoms = [2, 3]
nodes = 6
elements = ["O", "H", "O", "H", "H"]
variance = 1.0
[network]
callable = "nets_of_a_test:net"
predicts = "eps"
time = "sigma"
node_mask = true
[schedule]
kind = "cosine"
[[channels]]
name = "coordinates"
size = 3
centred = true
scale = 0.1
units = "nanometers"
[[channels]]
name = "charge"
"""


def test_a_network_of_molecules_may_write_into_everything_it_gets(tmp_path: Path, networks: types.ModuleType) -> None:
    """The network receives copies of states, times and the node mask; report and verify recognise molecules."""

    def net(x: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
        assert float((x * (1 - mask)).abs().max()) < 1e-6 and mask.shape == (len(x), 6, 1) and float(mask.sum()) == 5 * len(x)
        answer = sigma[:, None, None] * x
        x.fill_(7.0)
        sigma.zero_()
        mask.zero_()
        return answer

    networks.net = net
    folder, run = tmp_path / "m", tmp_path / "run"
    folder.mkdir()
    (folder / "adapter.toml").write_text(MOLECULES)
    words = ["--samples", 40, "--allow-code", "--set", "grid.steps=12", "--set", "output.batch=20"]
    assert call("sample", "--model", folder, "--out", run, *words)["code"] == 0
    with piadm_hpc.open(run) as dataset:
        positions, charge = dataset["coordinates"].values, dataset["charge"].values
        assert positions.shape == (40, 5, 3) and float(charge.std()) == pytest.approx(1.0, abs=0.2)
        for molecule in (positions[:, :2], positions[:, 2:]):
            assert np.abs(molecule.mean(1)).max() < 1e-6
    report = call("report", run, "--allow-code")
    assert report["code"] == 0 and "figures of conformers are drawn by `piadm verify`" in report["out"]
    assert call("reference", folder, "--samples", 2, "--levels", 4, "--allow-code")["code"] == 0
    assert load_model(folder, allow_code=True).reference.response is not None
    compared = call("verify", run, "--against", run / "samples.h5")
    assert compared["code"] == 0 and "Validity" in compared["out"]
    assert "held_out.h5: no such file; give reference conformers with --against" in one_line(call("verify", run), 2)


FUZZED: dict[str, Any] = {
    "name": "f",
    "grid": [4, 8],
    "variance": 0.25,
    "dims": ["lat", "lon"],
    "coordinates": "grid.nc",
    "mask": "sea",
    "network": {"callable": "nets_of_a_test:net", "predicts": "eps", "time": "index", "rows": 2, "time_scale": 1.0},
    "schedule": {"kind": "linear", "steps": 50, "beta_start": 1e-3, "beta_end": 0.2, "delta": 0.5, "zero_snr": False},
    "channels": [{"name": "a", "size": 1, "scale": 1.0, "offset": 0.0, "units": "K"}],
}
VALUES: list[Any] = [
    *(0, -1, 1, 3, 1e30, 1e-300, 0.5, 1.0, float("inf"), float("nan"), "", "x", "a:b", "../..", "é\n", [], [0, 0], {}, True),
    *("vp", "flow", "ou", "linear", "cosine", "betas", "index", "process", "eps", "v", "int64", "lat", ["lon", "lat"]),
]


def test_any_adapter_file_is_read_or_refused(tmp_path: Path, networks: types.ModuleType) -> None:
    """Two hundred files with one or two keys changed or removed give a model with finite samples, or a ValueError."""
    networks.net = lambda x, t: 0.1 * x
    generator, outcomes = random.Random(0), {True: 0, False: 0}
    write_grid(tmp_path)
    for _ in range(200):
        values = copy.deepcopy(FUZZED)
        for _ in range(generator.choice((1, 1, 1, 2))):
            section = generator.choice([values, values, *(one for one in (values.get("network"), values.get("schedule")) if one)])
            section = section if isinstance(section, dict) and section else values
            key = generator.choice(sorted(section))
            if generator.random() < 0.2:
                del section[key]
            else:
                section[key] = copy.deepcopy(generator.choice(VALUES))
        (tmp_path / "adapter.toml").write_text(tomli_w.dumps(values))
        try:
            x = drawn(tmp_path, 1, grid={"steps": 4}).x
        except (ValueError, ScoreError):
            outcomes[False] += 1
        else:
            outcomes[True] += 1
            assert bool(torch.isfinite(x).all()), values
    assert min(outcomes.values()) > 20, outcomes
