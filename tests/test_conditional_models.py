"""Conditional models of fields: training, closed forms, runs of one and of many conditions, and files that are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import call, one_line

import piadm_hpc
from piadm_hpc.gaussian.density import log_density
from piadm_hpc.gaussian.regression import fit_regression
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.guidance import guided
from piadm_hpc.models.training.fields import train
from piadm_hpc.models.volume import log_volume
from piadm_hpc.run.probe import probe_model, probe_trained
from piadm_hpc.run.resolve import resolve
from piadm_hpc.store.arrays import read_arrays

LAT, LON, COUNT = np.linspace(70, -70, 8), np.arange(16) * 22.5, 160
TIMES = np.arange(np.datetime64("2000-01"), np.datetime64("2000-01") + COUNT).astype("datetime64[ns]")
WAVE = np.cos(np.deg2rad(2 * LON)) * np.cos(np.deg2rad(LAT))[:, None]
STEADY = np.sin(np.deg2rad(LON)) * np.cos(np.deg2rad(LAT))[:, None]


def write_world(folder: Path) -> None:
    """Write x(t) = 0.8 x(t-1) + wave forcing(t) + white noise, month by month, with the forcing number and a class."""
    generator = np.random.default_rng(0)
    forcing, kind = generator.normal(size=COUNT), generator.integers(0, 2, COUNT)
    x = np.zeros((COUNT, len(LAT), len(LON)))
    for t in range(1, COUNT):
        x[t] = 0.8 * x[t - 1] + forcing[t] * WAVE + (kind[t] - 0.5) * STEADY + 0.3 * generator.normal(size=x[t].shape)
    tas = (("time", "lat", "lon"), (280 + x).astype(np.float32), {"units": "K"})
    extra = {"forcing": ("time", forcing, {"units": "W m-2"}), "kind": ("time", kind)}
    xr.Dataset({"tas": tas}, {"time": TIMES, "lat": LAT, "lon": LON}).to_netcdf(folder / "fields.nc")
    xr.Dataset(extra, {"time": TIMES}).to_netcdf(folder / "forcing.nc")


INPUTS = {
    "before": {"kind": "lag"},
    "forcing": {"kind": "scalar", "files": ["forcing.nc"]},
    "kind": {"kind": "class", "classes": 2, "files": ["forcing.nc"]},
    "month": {"kind": "month"},
}


def make(folder: Path, name: str = "conditional", **sections: Any) -> Path:
    data = {"files": ["fields.nc"], "variables": ["tas"], "scale": "global", "validation_fraction": 0.1, "test_fraction": 0.2}
    record: dict[str, Any] = {"name": name, "output": str(folder / name), "network": "none", "data": data}
    record |= {"reference": {"basis": "eof", "rank": 4}, "condition": {"inputs": INPUTS}} | sections
    return train(TrainConfig.model_validate(record), root=folder, report=lambda line: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    make(folder)
    network = {"width": 8, "multipliers": [1], "embedding": 8, "static_maps": 0}
    make(
        folder, "network", network=network, optimiser={"steps": 3, "validate_every": 3, "batch": 4, "warm_up": 0},
        condition={"inputs": INPUTS, "dropout": 0.2},
    )  # fmt: skip
    return folder


def today(folder: Path, count: int = 3, **changes: Any) -> Path:
    """Return conditions taken from the last months of the data."""
    fields, forcing = (xr.open_dataset(folder / f"{name}.nc").isel(time=slice(-count, None)) for name in ("fields", "forcing"))
    found = xr.Dataset({"before": fields.tas, "forcing": forcing.forcing, "kind": forcing.kind, "month": forcing.time.dt.month})
    path = folder / f"today-{count}-{len(list(folder.glob('today*')))}.nc"
    found.assign(changes).to_netcdf(path)
    return path


def test_the_regression_finds_persistence_numbers_and_classes(world: Any) -> None:
    """The regression finds gain 0.8, the forcing's wave and the classes' difference, and explains most of the variance."""
    model = load_model(world / "conditional")
    explained, conditioning = model.card["condition"]["explained"], model.conditioning
    assert explained > 0.8
    base = {"before": np.full((1, 8, 16), 280.0), "forcing": np.zeros(1), "kind": np.zeros(1), "month": np.ones(1)}

    def mean(**changes: Any) -> Any:
        return model.normalisation.decode(conditioning.mean(conditioning.encode(base | changes)))["tas"][0]

    rest = mean()
    assert abs((mean(before=base["before"] + 1) - rest).mean() - 0.8) < 0.1
    for change, pattern in ({"forcing": np.ones(1)}, WAVE), ({"kind": np.ones(1)}, STEADY):
        found = mean(**change) - rest
        assert (
            abs((found * pattern).sum() / (pattern**2).sum() - 1) < 0.2
            and np.corrcoef(found.ravel(), pattern.ravel())[0, 1] > 0.9
        )
    assert torch.count_nonzero(conditioning.null["maps"]) == torch.count_nonzero(conditioning.null["numbers"]) == 0


def test_cross_validated_residuals_are_as_large_as_those_of_new_states() -> None:
    """Residuals of a regression on many numbers are too small on its own data; those of the folds are not."""
    generator = torch.Generator().manual_seed(1)
    numbers, x = (torch.randn(96, n, dtype=torch.float64, generator=generator) for n in (20, 30))
    maps = torch.zeros(96, 0, 5, 6)
    fit = fit_regression(x.reshape(96, 5, 6), maps, numbers)
    own = (x - fit.regression(maps, numbers)).square().mean()
    assert float(own) < float(fit.residuals.square().mean()) and float(fit.residuals.square().mean()) > 0.98 * float(
        x.square().mean()
    )


def test_encode_and_decode_are_inverse_and_need_the_condition(world: Any) -> None:
    model = load_model(world / "network")
    values = {"before": np.full((2, 8, 16), 281.0), "forcing": np.ones(2), "kind": np.array([0, 1]), "month": np.array([1, 7])}
    c = model.conditioning.encode(values)
    fields = {"tas": (280 + np.random.default_rng(0).normal(size=(2, 8, 16))).astype(np.float32)}
    assert np.allclose(model.decode(model.encode(fields, c), c)["tas"], fields["tas"], atol=1e-4)
    with pytest.raises(ValueError, match="give the condition of every field"):
        model.encode(fields)
    with pytest.raises(ValueError, match="trained with conditions; give one"):
        model.score(torch.zeros(1, 8, 16), torch.ones(1))
    x, t = torch.randn(2, 8, 16), torch.ones(2)
    null = {name: part.expand(2, *part.shape[1:]) for name, part in model.conditioning.null.items()}
    expected = model.score(x, t, null) + 3 * (model.score(x, t, c) - model.score(x, t, null))
    assert torch.allclose(guided(model.score, model.conditioning.null, 3.0)(x, t, c), expected, atol=1e-5)


def test_samples_have_the_mean_and_covariance_of_the_conditional_gaussian(world: Any, tmp_path: Path) -> None:
    """The mean is within 1 % (level over spread of the data) and the covariance within 3 %, in at most two rounds."""
    run = piadm_hpc.RunConfig(
        model=str(world / "conditional"), out=str(tmp_path / "run"), samples=1500, condition={"file": str(today(world, 1))},
        output={"batch": 500}, compute={"model_batch": 10_000}, grid={"steps": 24}, solver={"kind": "picard"},
        chain={"eta": 0.0, "integrator": "gaussian"},
    )  # fmt: skip
    with piadm_hpc.sample(run) as dataset:
        found, rounds = dataset.tas.values.reshape(1500, -1).astype(np.float64), dataset.rounds.values
    model = load_model(world / "conditional")
    assert rounds.max() <= 2
    with xr.open_dataset(run.condition.file) as given:
        c = model.conditioning.encode({name: given[name].values for name in INPUTS})
    mean = model.normalisation.decode(model.conditioning.mean(c) + model.reference.mean.reshape(1, 8, 16))["tas"].ravel()
    basis, scale = model.reference.basis, float(model.normalisation.scale.mean())
    exact = basis.expand(model.reference.spectrum)
    modes = basis.analyse(torch.from_numpy((found - mean) / scale))
    assert float((modes.mean(0) / exact.sqrt()).abs().max()) < 4.5 / 1500**0.5
    assert abs(float((modes.square().mean(0) / exact).mean()) - 1) < 0.03


def test_one_condition_of_many_is_the_same_made_alone_and_members_are_appended(world: Any, tmp_path: Path) -> None:
    path = today(world, 3)
    run = piadm_hpc.RunConfig(
        model=str(world / "network"), out=str(tmp_path / "many"), samples=2, condition={"file": str(path), "guidance": 1.5},
        grid={"steps": 8}, solver={"kind": "picard", "tol": 1e-5}, output={"batch": 4},
    )  # fmt: skip
    with piadm_hpc.sample(run) as many:
        assert dict(many.tas.sizes) == {"realization": 2, "condition": 3, "lat": 8, "lon": 16}
        assert many.realization.values.tolist() == [0, 1] and [str(label)[:7] for label in many.condition.values] == [
            "2013-02",
            "2013-03",
            "2013-04",
        ]
        first = many.tas.load()
    with xr.open_dataset(path) as given:
        given.isel(time=[1]).to_netcdf(tmp_path / "alone.nc")
    alone = run.replace(out=str(tmp_path / "alone"), condition={"file": str(tmp_path / "alone.nc")})
    with piadm_hpc.sample(alone) as single:
        assert dict(single.tas.sizes) == {"realization": 2, "lat": 8, "lon": 16}
        assert float(np.abs(single.tas.values - first.values[:, 1]).max()) < 1e-2
    with piadm_hpc.sample(run.replace(samples=3)) as more:
        assert np.array_equal(more.tas.values[:2], first.values) and more.sizes["realization"] == 3
    only = run.replace(out=str(tmp_path / "only"), only=[1])
    with piadm_hpc.sample(only) as one:
        assert float(np.abs(one.tas.values[0] - first.values[1]).max()) < 1e-2 and one.realization.values.tolist() == [1]


def test_fields_with_dates_are_conditions_of_the_months_after_them(world: Any, tmp_path: Path) -> None:
    """Two dated months give the same samples as inputs by name: `before` is the last of them, and the month is the next."""
    with xr.open_dataset(world / "fields.nc") as fields:
        last = fields.tas.isel(time=slice(-2, None)).load()
    lags = {"before": {"kind": "lag"}, "month": {"kind": "month"}}
    make(world, "lags", condition={"inputs": lags})
    last.to_dataset().to_netcdf(tmp_path / "dated.nc")
    months = last.time.dt.month.values % 12 + 1
    xr.Dataset({"before": last, "month": ("time", months)}).to_netcdf(tmp_path / "named.nc")
    ends = []
    for name in ("dated", "named"):
        run = piadm_hpc.RunConfig(
            model=str(world / "lags"), out=str(tmp_path / name), samples=1, condition={"file": str(tmp_path / f"{name}.nc")},
            grid={"steps": 6},
        )  # fmt: skip
        with piadm_hpc.sample(run) as dataset:
            ends.append(dataset.tas.values)
    assert np.array_equal(*ends) and ends[0].shape == (1, 2, 8, 16)


def test_given_fields_have_the_density_of_the_conditional_gaussian(world: Any, tmp_path: Path) -> None:
    """`piadm density` with a condition per field, and with one for all, gives the closed form around the conditional mean."""
    conditions = today(world, 3)
    with xr.open_dataset(world / "fields.nc") as fields:
        fields.isel(time=slice(-3, None)).to_netcdf(tmp_path / "data.nc")
        tas = fields.tas.isel(time=slice(-3, None)).values
    with xr.open_dataset(conditions) as given:
        given.isel(time=[2]).to_netcdf(tmp_path / "one.nc")
        values = {name: given[name].values for name in INPUTS}
    model = load_model(world / "conditional")
    assert model.conditioning is not None
    encoded = model.conditioning.encode(values)
    last = {name: part[2:].expand_as(part) for name, part in encoded.items()}
    arguments = ["density", "--model", world / "conditional", "--data", tmp_path / "data.nc", "--out", tmp_path / "density.h5"]
    for path, c in ((conditions, encoded), (tmp_path / "one.nc", last)):
        assert call(*arguments, "--condition", path)["code"] == 0
        x = model.encode({"tas": tas}, c).double()
        own = log_density(model.reference, model.process, x, torch.tensor(model.delta, dtype=torch.float64))
        found = read_arrays(tmp_path / "density.h5")[0]["log_density"].values
        assert np.allclose(found, (own - log_volume(model, x)).numpy(), atol=0.02)
    assert "give condition.file (--condition FILE)" in one_line(call(*arguments), 2)
    assert "has 2 conditions, and data.nc has 3 fields" in one_line(call(*arguments, "--condition", today(world, 2)), 2)
    unconditional = ["density", "--model", "ccsm-temperature", *arguments[3:], "--condition", conditions]
    assert "takes no condition" in one_line(call(*unconditional), 2)


def test_a_changed_file_is_not_the_same_run(world: Any, tmp_path: Path) -> None:
    path = today(world, 1)
    arguments = ["sample", "--model", world / "conditional", "--condition", path, "--samples", 1, "--out", tmp_path / "run"]
    assert call(*arguments)["code"] == 0
    assert call(*arguments)["code"] == 0
    with xr.open_dataset(path) as found:
        changed = found.load().assign(forcing=found.forcing + 1)
    changed.to_netcdf(path)
    refused = call(*arguments)
    assert refused["code"] == 1 and "condition.sha256" in refused["err"]


def _changed(name: str, found: xr.Dataset) -> xr.Dataset:
    """Write a file of conditions with one mistake."""
    if name == "name":
        return found.rename(forcing="forcings")
    if name == "units":
        found["forcing"].attrs["units"] = "kg"
        return found
    if name == "shape":
        return found.assign(before=found.before.isel(lat=0, drop=True))
    if name == "grid":
        return found.assign_coords(lat=found.lat + 3)
    if name == "month":
        return found.assign(month=found.month + 12)
    if name == "class":
        return found.assign(kind=found.kind + 0.5)
    if name == "level":
        return found.assign(before=found.before - 273.15)
    if name == "gaps":
        return found.assign(before=found.before.where(found.lat > 0))
    return found.assign(forcing=("other", np.zeros(2))).assign(month=found.month)


MISTAKES = {
    "name": "there is no forcing; the model takes before (lag, K), forcing (scalar, W m-2), kind (class, 1), month (month, 1)",
    "units": "forcing is in 'kg', which cannot be converted to 'W m-2'",
    "shape": "before has the dimensions (time, lon); it must be a map over lat, lon",
    "grid": "its lat (8 values) differs from the grid's",
    "month": "accepted are whole numbers from 1 to 12",
    "class": "accepted are whole numbers from 0 to 1",
    "level": "it may be in other units, or not the anomaly that the model takes",
    "gaps": "is missing at",
    "dimensions": "only one may count conditions",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_conditions_that_do_not_fit_are_refused_before_any_work(world: Any, tmp_path: Path, mistake: Any) -> None:
    with xr.open_dataset(today(world, 2)) as found:
        _changed(mistake, found.load()).to_netcdf(tmp_path / "bad.nc")
    done = call(
        "sample", "--model", world / "conditional", "--condition", tmp_path / "bad.nc", "--samples", 1, "--out", tmp_path / "run"
    )
    assert MISTAKES[mistake] in done["err"] and done["code"] == 2 and not (tmp_path / "run").exists()


def test_all_mistakes_of_a_file_are_told_at_once(world: Any, tmp_path: Path) -> None:
    with xr.open_dataset(today(world, 2)) as found:
        _changed("class", _changed("month", _changed("units", found.load()))).to_netcdf(tmp_path / "bad.nc")
    done = call("sample", "--model", world / "conditional", "--condition", tmp_path / "bad.nc", "--out", tmp_path / "run")
    assert all(MISTAKES[name] in done["err"] for name in ("units", "month", "class"))


def test_models_and_conditions_that_do_not_go_together_are_refused(world: Any, tmp_path: Path) -> None:
    out = ["--samples", 1, "--out", tmp_path / "run"]
    words = one_line(call("sample", "--model", world / "conditional", *out), 2)
    assert "is conditional on before, forcing, kind, month: give condition.file" in words
    path = today(world, 1)
    words = one_line(call("sample", "--model", "ccsm-temperature", "--condition", path, *out), 2)
    assert "takes no condition" in words
    words = one_line(call("sample", "--model", world / "conditional", "--condition", path, "--guidance", 2, *out), 2)
    assert "was trained without condition.dropout" in words
    words = one_line(call("sample", "--model", world / "conditional", "--condition", tmp_path / "none.nc", *out), 2)
    assert "none.nc: no such file" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"before": {"kind": "lag", "files": ["forcing.nc"]}}, 'kind = "lag" takes no `files`'),
        ({"forcing": {"kind": "scalar"}}, 'kind = "scalar" needs `files`'),
        ({"kind": {"kind": "class", "files": ["forcing.nc"]}}, "`classes`, how many there are"),
        ({"month": {"kind": "month", "lag": 2}}, '`lag` belongs to kind = "lag"'),
    ],
)
def test_recipes_with_inputs_that_cannot_be_are_refused(world: Any, change: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(world, "refused", condition={"inputs": {**INPUTS, **change}})


def test_inputs_that_the_data_lack_are_named_together(world: Any) -> None:
    inputs = {"before": {"kind": "lag", "variable": "pr"}, "co2": {"kind": "scalar", "files": ["forcing.nc"]}}
    with pytest.raises(ValueError) as caught:
        make(world, "refused", condition={"inputs": inputs})
    assert "condition.inputs.before: pr is not among the variables tas" in str(caught.value)
    assert "condition.inputs.co2: there is no co2; the file has forcing, kind" in str(caught.value)


def test_a_conditional_model_is_probed_under_conditions_of_a_file(world: Any, tmp_path: Path) -> Any:
    """Training cannot probe such a model; the command does, given a file, and later runs of the model use the result."""
    probe_trained(world / "network")
    assert not (world / "network" / "response.h5").exists()
    words = one_line(call("reference", world / "network"), 2)
    assert "give condition.file (--condition FILE)" in words
    model = tmp_path / "probed"
    shutil.copytree(world / "network", model)
    done = call("reference", model, "--condition", today(world, 2), "--samples", 2, "--levels", 4)
    assert done["code"] == 0, done
    response = load_model(model).reference.response
    assert response is not None and response.smoothness is not None
    # the network is hardly trained, so that the probes find the Gaussian's own gains
    plain = load_model(world / "network").reference
    gains = plain.spectrum / (plain.spectrum + torch.exp(-response.snr)[:, None])
    smooth = (gains[:-2] + 2 * gains[1:-1] + gains[2:]) / 4
    assert float((response.gain[1:-1] - smooth).abs().max()) < 0.1
    words = one_line(call("reference", model, "--condition", "a.nc", "--data", "b.nc", "--out", tmp_path / "r.h5"), 2)
    assert "--condition is for probing" in words


def test_sweeps_of_a_probed_conditional_model_find_the_same_samples(world: Any, tmp_path: Path) -> None:
    """A response changes the rounds, and samples only within the tolerance."""
    probed = shutil.copytree(world / "network", tmp_path / "probed")
    settings: dict[str, Any] = {"condition": {"file": str(today(world, 2))}, "samples": 2, "grid": {"steps": 16}}
    settings |= {"chain": {"integrator": "collocation", "eta": 0.0}, "solver": {"tol": 1e-3}}
    drawn = []
    for number in range(2):
        with piadm_hpc.sample(piadm_hpc.RunConfig(model=str(probed), out=str(tmp_path / str(number)), **settings)) as dataset:
            drawn.append(dataset.tas.values)
        if number == 0:
            probe_model(probed, condition=today(world, 2), samples=3)
    assert float(np.abs(drawn[0] - drawn[1]).max()) < 0.02


def test_the_shipped_emulator_comes_probed_and_draws_the_same_samples(tmp_path: Path) -> None:
    """`ccsm-forced` at two levels of warming gives the same samples with its response as without it, for fewer calls."""
    levels = xr.Dataset({"warming": ("level", [285.17, 285.63], {"units": "K"})})
    levels.to_netcdf(tmp_path / "levels.nc")
    probed = load_model("ccsm-forced")
    assert probed.reference.response is not None and probed.reference.response.smoothness is not None
    settings: dict[str, Any] = {"model": "ccsm-forced", "condition": {"file": str(tmp_path / "levels.nc")}}
    settings |= {"chain": {"integrator": "collocation", "eta": 0.0}, "solver": {"tol": 1e-2}}
    found = []
    for model in (probed, replace(probed, reference=replace(probed.reference, response=None))):
        run = resolve(piadm_hpc.RunConfig.model_validate(settings), model)
        found.append(run.sampler.draw(range(2), condition=run.condition_of(range(2))))
    assert bool(found[0].converged.all())
    assert float((found[0].x - found[1].x).flatten(1).square().mean(1).sqrt().max()) <= 1e-2
    assert int(found[0].calls.sum()) < int(found[1].calls.sum())


def test_runs_of_conditions_are_planned_reported_and_joined(world: Any, tmp_path: Path) -> Any:
    """Every command that reads a run of several conditions, or estimates one, works."""
    run = ["--model", world / "network", "--condition", today(world, 2), "--samples", 2, "--set", "grid.steps=4"]
    assert "4 samples" in call("plan", *run)["out"]
    assert call("sample", *run, "--out", tmp_path / "run")["code"] == 0
    for command in ("check", "report", "status", "join"):
        done = call(command, tmp_path / "run")
        assert done["code"] == 0, done
    done = call("report", tmp_path / "run", "--baselines", 1)
    assert done["code"] == 2 and "they have no condition" in done["err"]


def test_the_shipped_emulator_warms_the_arctic_most(tmp_path: Path) -> Any:
    """At two levels of warming half a degree apart, the mean warms by half a degree globally, and by more in the north."""
    model = load_model("ccsm-forced")
    (given,) = model.conditioning.inputs
    assert (given.name, given.kind, given.units) == ("warming", "ensemble_mean", "K") and model.card["condition"]["dropout"] > 0
    levels = given.mean + np.array([-0.25, 0.25])
    cold, warm = model.normalisation.decode(model.conditioning.mean(model.conditioning.encode({"warming": levels})))["TREFHT"]
    latitudes = model.layout.coordinates["lat"].values
    weights = np.cos(np.deg2rad(latitudes))
    zonal = (warm - cold).mean(1)
    assert abs(float((zonal * weights).sum() / weights.sum()) - 0.5) < 0.1
    assert zonal[latitudes > 60] @ weights[latitudes > 60] / weights[latitudes > 60].sum() > 0.75
    xr.Dataset({"warming": ("level", levels, {"units": "K"})}).to_netcdf(tmp_path / "levels.nc")
    run = piadm_hpc.RunConfig(
        model="ccsm-forced",
        samples=1,
        out=str(tmp_path / "run"),
        condition={"file": str(tmp_path / "levels.nc")},
        grid={"steps": 6},
    )
    with piadm_hpc.sample(run) as dataset:
        fields = dataset.TREFHT.isel(realization=0).values
    assert (
        fields.shape == (2, 64, 128)
        and abs(float(((fields[1] - fields[0]).mean(1) * weights).sum() / weights.sum()) - 0.5) < 0.25
    )


def test_the_shipped_forecast_persists_and_knows_its_inputs() -> Any:
    """Anomalies persist from month to month, more from the last month than from the one before; land is left out."""
    model = load_model("ersst-forecast")
    assert [(given.name, given.kind, given.lag) for given in model.conditioning.inputs] == [
        ("sst_1", "lag", 1), ("sst_2", "lag", 2), ("month", "month", 0),
    ]  # fmt: skip
    ocean = model.normalisation.mask[0]
    one, zero = np.where(ocean, 1.0, np.nan)[None], np.where(ocean, 0.0, np.nan)[None]
    rest, last, before = (
        model.normalisation.decode(model.conditioning.mean(model.conditioning.encode(values)))["sst"][0]
        for values in (
            {"sst_1": zero, "sst_2": zero, "month": np.ones(1)},
            {"sst_1": one, "sst_2": zero, "month": np.ones(1)},
            {"sst_1": zero, "sst_2": one, "month": np.ones(1)},
        )
    )
    assert np.isnan(rest[~ocean]).all() and 0.5 < (last - rest)[ocean].mean() < 1.2
    assert (last - rest)[ocean].mean() > (before - rest)[ocean].mean()
    table = model.card["scores"]["test"]
    assert np.mean(np.log(table["ratio"])) < 0
