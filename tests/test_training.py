"""References and denoisers are fitted to small synthetic fields: better than Gaussian, resumable, and complete on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
import xarray as xr
from helpers import call
from safetensors.torch import load_file

from piadm_hpc.data.gridded import read_fields
from piadm_hpc.data.power import zonal_power
from piadm_hpc.gaussian.masked import MaskedEOF
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import OptimiserConfig, ReferenceConfig, TrainConfig, load_config
from piadm_hpc.models.denoiser import GaussianDenoiser
from piadm_hpc.models.training.clock import Clock
from piadm_hpc.models.training.evaluation import denoising_table, even_levels, time_of
from piadm_hpc.models.training.fields import _schedule, fit_network, make_network, train
from piadm_hpc.models.training.fitting import fit_reference
from piadm_hpc.models.training.objective import NoiseLevels
from piadm_hpc.store.arrays import read_arrays
from piadm_hpc.theory.bases import EOF
from piadm_hpc.theory.process import EDM, OU, VP, Flow

COUNT, SHAPE = 96, (8, 16)


def write_fields(path: Path, *, gaps: bool = False) -> None:
    """Fields of strongly non-Gaussian amplitude in two patterns: a denoiser that knows the amplitude does better."""
    generator = np.random.default_rng(0)
    lat, lon = np.linspace(70, -70, SHAPE[0]), np.arange(SHAPE[1]) * 22.5
    pattern = np.cos(np.deg2rad(2 * lon)) * np.cos(np.deg2rad(lat))[:, None]
    amplitude = np.sign(generator.normal(size=COUNT)) * 4
    fields = amplitude[:, None, None] * pattern + 0.3 * generator.normal(size=(COUNT, *SHAPE))
    if gaps:
        fields[:, 2:4, 3:6] = np.nan
    variable = (("time", "lat", "lon"), fields.astype(np.float32), {"units": "K"})
    xr.Dataset({"tas": variable}, {"time": np.arange(COUNT), "lat": lat, "lon": lon}).to_netcdf(path)


def make_config(output: Path, **changes: Any) -> TrainConfig:
    record = {
        "name": "small",
        "output": str(output),
        "data": {"files": ["a.nc"], "variables": ["tas"], "scale": "global", "validation_fraction": 0.2, "test_fraction": 0.2},
        "reference": {"max_rank": 4},
        "network": {"width": 16, "multipliers": [1, 1], "embedding": 16, "static_maps": 1, "dropout": 0.05},
        "noise": {"lowest": -9.0, "highest": 3.0},
        "optimiser": {"steps": 60, "batch": 16, "rate": 3e-3, "warm_up": 5, "validate_every": 20, "ema": 0.9},
    }
    for key, value in changes.items():
        record[key] = {**record.get(key, {}), **value} if isinstance(value, dict) else value
    return TrainConfig.model_validate(record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_fields(tmp_path / "a.nc")
    return tmp_path


def quiet(line: str) -> None:
    """Discard progress."""


def test_the_command_probes_what_it_trained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(folder / "small", optimiser={"steps": 2, "validate_every": 2})
    (folder / "train.toml").write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    monkeypatch.chdir(folder)
    for name, more in (("plain", ["--no-probe"]), ("probed", [])):
        assert call("train", "train.toml", "--set", f"output={name}", *more)["code"] == 0
        response = load_model(folder / name).reference.response
        assert (response is None) == (name == "plain")
    assert response is not None and response.gain.shape == (24, load_model(folder / "probed").reference.basis.num_shells)


def test_training_beats_the_gaussian_and_is_published(folder: Path) -> None:
    lines: list[str] = []
    output = train(make_config(folder / "small"), root=folder, report=lines.append)
    model = load_model(output)
    scores = model.card["scores"]["test"]
    # sixty steps end differently on every processor: errors must be smaller on average, and clearly so at some noise level
    assert scores["states"] == 19 and min(scores["ratio"]) < 0.8 and float(np.mean(scores["ratio"])) < 1.0
    assert model.card["training"]["steps"] == 60 and model.card["data"]["train"] == 58
    assert any("error over Gaussian's" in line for line in lines)
    table = denoising_table(model.denoiser, read_fields(make_config(output).data, folder).test, tuple(scores["log_snr"]))
    assert np.allclose(table.denoiser, scores["denoiser"], rtol=0.02)
    arrays, _ = read_arrays(output / "statistics.h5")
    assert arrays["train_zonal_power"].values.argmax() == 2
    assert arrays["held_out_examples"].values.shape == (19, 1, *SHAPE)
    again = TrainConfig.model_validate({**model.card["training"]["config"], "output": "x"})
    assert again.optimiser.steps == 60, "the card holds a configuration that can be run again"


def test_an_interrupted_run_ends_where_it_would_have_ended(folder: Path) -> None:
    options = {"steps": 40, "validate_every": 10}
    whole = train(make_config(folder / "whole", optimiser=options), root=folder, report=quiet)
    config = make_config(folder / "parts", optimiser=options)
    lines: list[str] = []

    def killing(line: str) -> None:
        # the validation line of step 20 comes before its checkpoint: the run has to fall back to step 10
        if line.startswith("step 20:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, root=folder, report=killing)
    parts = train(config, root=folder, report=lines.append)
    assert any("continuing from step 10" in line for line in lines)
    expected, got = load_file(whole / "weights.safetensors"), load_file(parts / "weights.safetensors")
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_another_configuration_does_not_continue(folder: Path) -> None:
    train(make_config(folder / "small", optimiser={"steps": 2, "validate_every": 1}), root=folder, report=quiet)
    with pytest.raises(ValueError, match=r"\.small\.training: was started with another .*differing: noise"):
        train(make_config(folder / "small", noise={"lowest": -5.0}), root=folder, report=quiet)


def test_checkpoints_hold_no_pickles(folder: Path) -> None:
    train(make_config(folder / "small", optimiser={"steps": 2, "validate_every": 1}), root=folder, report=quiet)
    (step,) = (folder / ".small.training").iterdir()
    assert sorted(path.name for path in step.iterdir()) == ["state.json", "tensors.safetensors"]
    assert json.loads((step / "state.json").read_text())["step"] == 2


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path) -> None:
    config = make_config(folder / "small")
    data = read_fields(config.data, folder)
    network = make_network(config.network, data, True, 0)
    torch.nn.init.constant_(network.head.conv.bias, float("nan"))
    denoiser = GaussianDenoiser(OU(), fit_reference(data.train, data.validation, config.reference), network)
    with pytest.raises(ValueError, match="the loss is nan at step 0"):
        fit_network(denoiser, data, config, folder / "checkpoints", quiet)


def test_a_stale_run_stops_early(folder: Path) -> None:
    slow = {"steps": 400, "rate": 1e-12, "validate_every": 2, "patience": 2, "warm_up": 0}
    config = make_config(folder / "small", optimiser=slow)
    output = train(config, root=folder, report=quiet)
    assert load_model(output).card["training"]["steps"] < 20


def test_the_time_of_a_training_counts_what_follows_and_its_lines_say_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    options, lines, seconds = OptimiserConfig(steps=1000, batch=10, max_minutes=10), list[str](), iter(range(0, 10_000, 2))
    monkeypatch.setattr("piadm_hpc.models.training.clock.time.monotonic", lambda: float(next(seconds)))
    # steps of two seconds with ten rows: 1,800 rows take two minutes, so that 8 minutes or 240 steps remain for training
    clock = Clock(options, 0.0, lines.append, afterwards=1800)
    for step in range(1, 121):
        assert clock.tick(step, 1.0) == pytest.approx(step / 30)
    assert clock.spent == pytest.approx(1 / 2)
    assert lines[0] == "step 16/1000  loss 1.0000  0.50 steps/s  0.5 min, at most 7.5 min left"
    without = Clock(OptimiserConfig(steps=1000), 5.0, lines.append, afterwards=1800)
    without.tick(1, 1.0)
    assert without.spent == 0


def test_the_learning_rate_comes_down_with_the_steps_or_the_time() -> None:
    options = OptimiserConfig(steps=1000, warm_up=0)
    half = _schedule(500, options, 0.0)
    assert _schedule(0, options, 0.0) == 1 and half == pytest.approx(0.505) and _schedule(1000, options, 0.0) == 0.01
    assert _schedule(100, options, 0.5) == half and _schedule(100, options, 1.3) == 0.01
    assert _schedule(500, options, 0.1) == half


@pytest.mark.parametrize("gaps", [False, True])
def test_gaussian_only_models(tmp_path: Path, gaps: bool) -> None:
    write_fields(tmp_path / "a.nc", gaps=gaps)
    config = make_config(tmp_path / "plain", network="none", reference={"basis": "eof"})
    model = load_model(train(config, root=tmp_path, report=quiet))
    assert isinstance(model.reference.basis, MaskedEOF) == gaps and isinstance(model.reference.basis, EOF)
    assert not (tmp_path / "plain" / "weights.safetensors").exists()
    x, t = torch.randn(3, *SHAPE, dtype=torch.float64), torch.tensor([0.01, 1.0, 8.0])
    assert torch.allclose(model.score(x, t), model.reference.score(model.process, x, t), rtol=1e-7)
    assert set(model.card["scores"]["test"]["ratio"]) == {1.0}
    assert np.isnan(model.decode(x)["tas"]).any() == gaps


def test_several_variables_with_gaps_on_a_regional_grid(tmp_path: Path) -> None:
    write_fields(tmp_path / "a.nc", gaps=True)
    with xr.open_dataset(tmp_path / "a.nc") as dataset:
        both = dataset.load().assign(pr=dataset["tas"] ** 2)
    both.to_netcdf(tmp_path / "a.nc", mode="w")
    config = make_config(tmp_path / "two", data={"variables": ["tas", "pr"], "wrap": False}, optimiser={"steps": 2})
    model = load_model(train(config, root=tmp_path, report=quiet))
    assert model.event_shape == (2, *SHAPE) and [v.name for v in model.layout.variables] == ["tas", "pr"]
    x = torch.randn(3, 2, *SHAPE)
    denoised = model.denoiser(x, torch.tensor([0.1, 1.0, 3.0]))
    assert model.mask is not None and float(denoised.flatten(1)[:, ~model.mask].abs().max()) == 0
    assert model.decode(denoised)["pr"].shape == (3, *SHAPE)


@pytest.mark.parametrize("basis", ["harmonic_eof", "spherical", "fourier", "pixelwise", "isotropic"])
def test_other_bases_by_name(folder: Path, basis: str) -> None:
    weighted = {"area_weights": basis == "spherical"}
    config = make_config(folder / basis, network="none", reference={"basis": basis, "split": 5}, data=weighted)
    model = load_model(train(config, root=folder, report=quiet))
    states = read_fields(config.data, folder).train.flatten(1).double()
    assert float(model.denoiser.degrees @ model.reference.spectrum) == pytest.approx(float(states.var(0).sum()), rel=0.02)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    assert torch.isfinite(model.score(x, torch.tensor([0.1, 2.0]))).all()


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_the_rank_is_found_by_held_out_likelihood() -> None:
    generator = torch.Generator().manual_seed(0)
    modes = torch.linalg.qr(torch.randn(128, 4, generator=generator)).Q
    states = torch.randn(200, 4, generator=generator) * 10 @ modes.T + torch.randn(200, 128, generator=generator)
    states = states.reshape(200, 8, 16)
    reference = fit_reference(states[:150], states[150:], ReferenceConfig(max_rank=64))
    assert isinstance(reference.basis, EOF) and reference.basis.rank == 4
    assert float(reference.spectrum[-1]) == pytest.approx(1.0, rel=0.1)
    alone = fit_reference(states[:150], states[:0], ReferenceConfig(rank=40))
    assert float(alone.spectrum[-1]) == pytest.approx(1.0, rel=0.1), "the tail is not understated"


def test_references_that_do_not_fit_are_refused() -> None:
    states, mask = torch.randn(20, 8, 16), torch.ones(8, 16, dtype=torch.bool)
    mask[0, 0] = False
    with pytest.raises(ValueError, match="rank 30 is too high for 16 training fields; use at most 14"):
        fit_reference(states, states[:0], ReferenceConfig(rank=30))
    with pytest.raises(ValueError, match="'fourier' needs fields without gaps, these have 1"):
        fit_reference(states, states[:0], ReferenceConfig(basis="fourier"), mask=mask)
    with pytest.raises(ValueError, match="needs a global grid with latitudes in degrees"):
        fit_reference(states, states[:0], ReferenceConfig(basis="harmonic_eof"), latitudes=[1e5] * 8)
    with pytest.raises(ValueError, match="split must be at least 1 and below lmax = 8, got 28"):
        fit_reference(states, states[:0], ReferenceConfig(basis="harmonic_eof"), latitudes=np.linspace(80, -80, 8).tolist())


@pytest.mark.parametrize("process", [OU(), VP(), EDM(), Flow()])
def test_time_of_a_noise_level(process: Any) -> None:
    levels = torch.tensor([-6.0, 0.0, 5.0], dtype=torch.float64)
    t = time_of(process, levels)
    assert torch.allclose(2 * torch.log(process.alpha(t) / process.sigma(t)), levels, atol=1e-9)


def test_noise_levels_stay_in_range_and_follow_the_remainder(folder: Path) -> None:
    config = make_config(folder / "small")
    data = read_fields(config.data, folder)
    denoiser = GaussianDenoiser(OU(), fit_reference(data.train, data.validation, config.reference))
    drawn = NoiseLevels(denoiser, config.noise).draw(4000, torch.Generator().manual_seed(0))
    assert -9 <= float(drawn.min()) and float(drawn.max()) <= 3
    times = [time_of(OU(), levels) for levels in (drawn, torch.linspace(-9, 3, 4000))]
    share, even = (float((denoiser.output_scale(t) ** 2 / denoiser.wiener_error(t)).mean()) for t in times)
    assert share > 1.1 * even, "levels are drawn where the remainder's share of the error is large"
    assert even_levels(-6.0, 5.0) == (-4.0, -2.0, 0.0, 2.0, 4.0) and even_levels(0.5, 1.5) == (1.0,)


def test_zonal_power_adds_up_to_the_mean_square() -> None:
    fields, area = np.random.default_rng(0).normal(size=(5, 6, 8)), np.arange(1.0, 7)
    assert zonal_power(fields, area).sum() == pytest.approx(float((fields**2).mean((0, 2)) @ area / area.sum()))
    odd = fields[..., :7]
    assert zonal_power(odd, area).sum() == pytest.approx(float((odd**2).mean((0, 2)) @ area / area.sum()))


def test_configurations_list_all_their_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    with pytest.raises(ValueError, match="No such file"):
        load_config(path)
    path.write_text('name = "x"\noutput = "y"\ncolour = 1\n[data]\nfiles = []\nvariables = ["a"]\n[optimiser]\nrate = -1\n')
    with pytest.raises(ValueError, match=r"(?s)data\.files: .*optimiser\.rate: .*colour: "):
        load_config(path)
    path.write_text("name = ")
    with pytest.raises(ValueError, match="not a TOML file"):
        load_config(path)


def test_bases_and_weights_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="area_weights = true go together"):
        make_config(tmp_path, reference={"basis": "spherical"})
    with pytest.raises(ValueError, match="takes one variable, got 2"):
        make_config(tmp_path, reference={"basis": "fourier"}, data={"variables": ["a", "b"]})
    with pytest.raises(ValueError, match="must be below highest"):
        make_config(tmp_path, noise={"lowest": 9.0})


def test_the_shipped_recipes_are_valid() -> None:
    for recipe in (Path(__file__).parent.parent / "datasets").glob("*.toml"):
        assert load_config(recipe).name == recipe.stem
