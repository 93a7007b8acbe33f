"""Scores of fields whose scores are known, and reports of small runs: tables, numbers, figures, and mistakes in options."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from piadm_hpc.analysis.comparison import compare, score_table
from piadm_hpc.analysis.drawing.colours import round_up
from piadm_hpc.analysis.drawing.style import PlotError
from piadm_hpc.analysis.figures import Picture, draw
from piadm_hpc.analysis.grids import MapGrid
from piadm_hpc.analysis.report.baselines import LADDER, measure
from piadm_hpc.analysis.report.report import report
from piadm_hpc.analysis.report.tables import table
from piadm_hpc.analysis.scores import (
    Ensemble,
    amplitude_ratio,
    area_mean,
    ensemble,
    moments,
    pattern_correlation,
    reference_of,
    scores,
    standard_errors,
)
from piadm_hpc.analysis.spectra import band_ratios
from piadm_hpc.config.run import RunConfig
from piadm_hpc.data.grids import row_shares
from piadm_hpc.data.power import zonal_power
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.training.fields import train
from piadm_hpc.run.execute import execute
from piadm_hpc.run.reporting import Progress
from piadm_hpc.run.resolve import make_sampler
from piadm_hpc.store.reading import open_run

LAT, LON = np.linspace(85, -85, 18), np.arange(48) * 7.5
WEIGHTS = row_shares("lat", LAT, {})
GLOBE = MapGrid(("lat", "lon"), LAT, LON, WEIGHTS, True, ("latitude", "longitude"))


def red_fields(count: int, seed: int = 0, *, mean: float = 280.0, std: float = 2.0) -> np.ndarray:
    """Return smooth fields [count, lat, lon] whose zonal power falls with the square of the wavenumber."""
    generator = np.random.default_rng(seed)
    k = np.arange(len(LON) // 2 + 1)
    half = generator.normal(size=(2, count, len(LAT), len(k))) / np.maximum(k, 1)
    waves = np.fft.irfft(half[0] + 1j * half[1], n=len(LON), axis=-1)
    return mean + 20 * np.cos(np.deg2rad(LAT))[:, None] + std * waves / waves.std()


def write_fields(path: Path, fields: np.ndarray, *, land: bool = False, extra: bool = False) -> None:
    fields = fields.astype(np.float32).copy()
    if land:
        fields[:, 6:9, 10:20] = np.nan
    dims = ("time", "lat", "lon")
    dataset = xr.Dataset({"tas": (dims, fields, {"units": "K", "long_name": "temperature"})})
    if extra:
        dataset["pr"] = (dims, np.square(fields - 280.0), {"units": "mm/day"})
    dataset.assign_coords(time=np.arange(len(fields)), lat=LAT, lon=LON).to_netcdf(path)


def make_model(folder: Path, *, land: bool = False, extra: bool = False) -> Path:
    """Train and save a Gaussian model of red fields."""
    write_fields(folder / "data.nc", red_fields(60), land=land, extra=extra)
    config = {
        "name": "red",
        "output": str(folder / "red"),
        "network": "none",
        "data": {"files": ["data.nc"], "variables": ["tas", "pr"] if extra else ["tas"], "test_fraction": 0.3},
        "reference": {"basis": "eof", "rank": 10},
    }
    return train(TrainConfig.model_validate(config), root=folder, report=lambda line: None)


def make_run(folder: Path, name: str, samples: int = 3, **changes: Any) -> Path:
    config = RunConfig.model_validate(
        {
            "model": str(folder / "red"),
            "out": str(folder / name),
            "samples": samples,
            "compute": {"threads": 1},
            "grid": {"steps": 12},
        }
        | changes
    )
    execute(config)
    return folder / name


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    make_model(folder)
    make_run(folder, "run")
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the figures that a report asks for, without drawing them, which takes seconds."""
    names: list[str] = []

    def note(picture: Picture, *paths: Path) -> None:
        names.extend(Path(path).name for path in paths)

    monkeypatch.setattr("piadm_hpc.analysis.report.report.draw", note)
    return names


# --- scores of fields that are known ---------------------------------------------------------------------------------


def test_area_means_weigh_rows_by_their_area_and_leave_out_gaps() -> None:
    field = np.broadcast_to(np.sin(np.deg2rad(LAT))[:, None] ** 2, (18, 48)).copy()
    assert area_mean(field, WEIGHTS) == pytest.approx(1 / 3, abs=0.01)
    field[3, 5:9] = np.nan
    ones = np.where(np.isfinite(field), 1.0, np.nan)
    assert area_mean(ones, WEIGHTS) == pytest.approx(1.0)
    assert np.isnan(area_mean(np.full((18, 48), np.nan), WEIGHTS))


def test_planes_have_equal_rows() -> None:
    assert np.allclose(row_shares("y", np.linspace(0, 80, 5), {"units": "km"}), 0.2)


def test_pattern_correlation_ignores_offset_and_factor() -> None:
    field = red_fields(1)[0]
    assert pattern_correlation(3 * field + 7, field, WEIGHTS) == pytest.approx(1.0)
    assert pattern_correlation(-field, field, WEIGHTS) == pytest.approx(-1.0)
    assert np.isnan(pattern_correlation(np.ones_like(field), field, WEIGHTS))
    assert amplitude_ratio(3 * field, field, WEIGHTS) == pytest.approx(3.0)


def test_spectrum_of_a_wave_is_in_its_wavenumber() -> None:
    wave = 3.0 * np.cos(np.deg2rad(4 * LON)) * np.ones((18, 1))
    reference = reference_of("flat", np.stack([wave, -wave]), WEIGHTS)
    assert reference.power.argmax() == 4 and reference.power[4] == pytest.approx(9 / 2)
    assert reference.power.sum() == pytest.approx(area_mean(wave**2, WEIGHTS))


def test_bands_compare_spectra_by_their_geometric_mean() -> None:
    power = np.ones(25)
    ratios = band_ratios(np.where(np.arange(25) % 2, 4.0, 1.0)[None] * power, power)
    assert ratios["power_ratio_1_5"][0] == pytest.approx(4 ** (3 / 5))
    assert ratios["power_ratio_21_up"][0] == pytest.approx(2.0)
    assert list(band_ratios(power[:10], power[:10])) == ["power_ratio_1_5", "power_ratio_6_20"]


def test_fields_score_perfectly_against_themselves() -> None:
    fields = red_fields(40)
    reference = reference_of("itself", fields, WEIGHTS)
    found = {name: value[0] for name, value in scores(moments(ensemble(fields, reference)), reference).items()}
    assert found["std_pattern_correlation"] == pytest.approx(1) and found["std_ratio"] == pytest.approx(1)
    assert found["mean_field_rms_difference"] == pytest.approx(0, abs=1e-9)
    assert found["global_mean"] == pytest.approx(reference.area_means.mean())
    assert found["global_mean_spread"] == pytest.approx(reference.area_means.std(ddof=1))
    assert all(found[name] == pytest.approx(1) for name in found if name.startswith("power_ratio"))


def test_a_bias_and_a_wrong_amplitude_are_seen() -> None:
    reference = reference_of("truth", red_fields(400), WEIGHTS)
    fields = reference.mean + 1.5 * (red_fields(400, seed=1) - reference.mean) + 0.7
    found = {name: value[0] for name, value in scores(moments(ensemble(fields, reference)), reference).items()}
    assert found["global_mean"] - reference.area_means.mean() == pytest.approx(0.7, abs=0.1)
    assert found["mean_field_rms_difference"] == pytest.approx(0.7, abs=0.1)
    assert found["std_ratio"] == pytest.approx(1.5, abs=0.05)
    assert found["power_ratio_6_20"] == pytest.approx(1.5**2, rel=0.05)


def test_gaps_are_left_out_of_patterns() -> None:
    fields, gappy = red_fields(30), red_fields(30)
    gappy[:, 4:8, 3:9] = np.nan
    reference = reference_of("gaps", gappy, WEIGHTS)
    assert np.isfinite(reference.power).all() and np.isfinite(reference.area_means).all()
    found = scores(moments(ensemble(np.where(np.isnan(gappy), np.nan, fields), reference)), reference)
    assert found["std_ratio"][0] == pytest.approx(1) and found["std_pattern_correlation"][0] == pytest.approx(1)


def test_bootstrap_errors_are_those_of_the_mean() -> None:
    reference = reference_of("truth", red_fields(50), WEIGHTS)
    fields = red_fields(60, seed=3)
    errors = standard_errors(ensemble(fields, reference), reference, resamples=400)
    expected = area_mean(fields, WEIGHTS).std(ddof=1) / np.sqrt(60)
    assert errors["global_mean"] == pytest.approx(expected, rel=0.15)
    assert standard_errors(ensemble(fields[:1], reference), reference) == {}


def test_the_bootstrap_in_parts_is_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = reference_of("truth", red_fields(20), WEIGHTS)
    fields = ensemble(red_fields(10, seed=5), reference)
    whole = standard_errors(fields, reference, resamples=30)
    monkeypatch.setattr("piadm_hpc.analysis.scores.CHUNK_BYTES", 4 * fields.deviations[0].nbytes)
    assert standard_errors(fields, reference, resamples=30) == pytest.approx(whole)


def test_resamples_are_subsets_with_repetition() -> None:
    reference = reference_of("truth", red_fields(20), WEIGHTS)
    fields = ensemble(red_fields(6, seed=2), reference)
    rows = [0, 0, 2, 2, 2, 5]
    drawn = moments(fields, np.bincount(rows, minlength=6)[None].astype(float))
    chosen = moments(Ensemble(fields.deviations[rows], fields.power[rows], fields.area_means[rows]))
    for name in ("shift", "std", "power", "area_mean", "area_spread"):
        assert np.allclose(getattr(drawn, name), getattr(chosen, name))


# --- against the statistics in the model folder ----------------------------------------------------------------------


def test_held_out_data_score_as_the_model_card_says(tmp_path: Path) -> None:
    """The training fields score perfectly against the shipped statistics of those fields, with gaps too."""
    model = make_model(tmp_path, land=True)
    with xr.open_dataset(tmp_path / "data.nc") as data:
        fields = data.isel(time=slice(0, 42)).load()
    (found,) = compare(fields, model)
    rows = found.rows()
    assert found.reference.label == "training data, 42 fields" and found.real_label == "18 held-out fields"
    for name, row in rows.items():
        assert row["samples"] == pytest.approx(row["reference"], rel=1e-4, abs=1e-4), name
    assert found.reference.area_means.mean() == pytest.approx(float(np.mean(area_mean(fields.tas.values, WEIGHTS))), abs=1e-3)


def test_as_many_held_out_fields_as_samples_are_scored(plain: Path) -> None:
    with open_run(plain / "run") as dataset:
        record = score_table(dataset, plain / "red")["tas"]
    assert record["held_out"] == "3 held-out fields" and record["num_samples"] == 3 and record["units"] == "K"
    assert json.loads(json.dumps(record)) == record
    assert set(record["scores"]["std_ratio"]) == {"samples", "standard_error", "reference", "held_out"}
    assert 0.7 < record["scores"]["std_ratio"]["samples"] < 1.3


def test_samples_of_a_gaussian_model_have_its_mean_and_spread(plain: Path) -> None:
    run = make_run(plain, "many", samples=60, output={"batch": 30})
    reference = load_model(plain / "red").reference
    # a Gaussian fitted to few fields is wider than they are, which the score has to show
    expected = float(torch.sqrt(reference.basis.expand(reference.spectrum).sum() / reference.mean.numel()))
    with open_run(run) as dataset:
        found = score_table(dataset, plain / "red")["tas"]["scores"]
    assert expected > 1.1 and found["std_ratio"]["samples"] == pytest.approx(expected, abs=0.06)
    assert abs(found["global_mean"]["samples"] - found["global_mean"]["reference"]) < 4 * found["global_mean"]["standard_error"]


def test_any_file_on_the_grid_is_a_reference(plain: Path) -> None:
    with open_run(plain / "run") as dataset:
        upside_down = xr.open_dataset(plain / "data.nc").isel(lat=slice(None, None, -1))
        upside_down.to_netcdf(plain / "turned.nc")
        turned = score_table(dataset, plain / "red", against=plain / "turned.nc")["tas"]
        straight = score_table(dataset, plain / "red", against=plain / "data.nc")["tas"]
    assert turned["scores"] == straight["scores"] and straight["reference"] == "data.nc, 60 fields"
    assert "held_out" not in straight["scores"]["std_ratio"]


def test_stored_weights_are_used(plain: Path) -> None:
    with open_run(plain / "run") as dataset:
        only = np.zeros(18)
        only[4] = 2.0
        weighted = dataset.assign(cell_weight=("lat", only))
        (found,) = compare(weighted, plain / "red", against=plain / "data.nc")
        assert found.own["global_mean"] == pytest.approx(float(dataset.tas[:, 4].mean()), abs=1e-3)


def test_files_that_cannot_be_compared_are_refused(plain: Path) -> None:
    coarse = xr.open_dataset(plain / "data.nc").isel(lon=slice(None, None, 2))
    coarse.to_netcdf(plain / "coarse.nc")
    coarse.rename(tas="other").to_netcdf(plain / "other.nc")
    with open_run(plain / "run") as dataset:
        for name, words in (("absent.nc", "no such file"), ("coarse.nc", "on their grid"), ("other.nc", "no tas")):
            with pytest.raises(ValueError, match=words):
                compare(dataset, plain / "red", against=plain / name)
        with pytest.raises(ValueError, match="samples have no tas"):
            compare(dataset.drop_vars("tas"), plain / "red")


def test_large_runs_are_thinned_evenly(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with xr.open_dataset(plain / "data.nc") as data:
        monkeypatch.setattr("piadm_hpc.analysis.planes.MAX_BYTES", 8 * 18 * 48 * 10)
        (found,) = compare(data, plain / "red")
        assert len(found.fields) == 10 and found.available == 60
        assert np.array_equal(found.fields[[0, -1]], data.tas.values[[0, -1]])


# --- baselines -----------------------------------------------------------------------------------------------------------


def baselines_of(folder: Path, run: str, count: int = 2) -> Any:
    with open_run(folder / run) as dataset:
        model = load_model(folder / "red")
        config = RunConfig.model_validate(json.loads(dataset.attrs["piadm_config"]))
        own = model.encode({"tas": dataset.tas.values[:count]})
        return measure(make_sampler(config, model), model.process, own, range(count), tol=config.solver.tol)


def test_a_stochastic_chain_is_compared_with_itself(plain: Path) -> None:
    found = baselines_of(plain, "run")
    assert not found.deterministic and found.own_error == found.path_error < 1e-3
    assert found.step_by_step.error == 0 and found.step_by_step.rounds == 12
    assert [cost.rounds for cost in found.ladder] == list(LADDER[: len(found.ladder)])
    reached = found.reaching(0.01)
    assert reached is not None and reached.error <= 0.01 and found.reaching(0.0) is None


def test_dpm_solver_converges_with_second_order(plain: Path) -> None:
    found = baselines_of(plain, "run")
    errors = {cost.rounds: cost.error for cost in found.ladder}
    assert errors[40] / errors[80] == pytest.approx(4, rel=0.5) and found.converged_error < 1e-3


def test_a_deterministic_chain_is_compared_with_the_converged_flow(plain: Path) -> None:
    make_run(plain, "ode", chain={"integrator": "piadm", "eta": 0.0})
    found = baselines_of(plain, "ode")
    assert found.deterministic and found.path_error < 1e-2 < found.own_error
    assert found.step_by_step.error == pytest.approx(found.own_error, rel=0.1)
    # the Gaussian-aware chain takes this flow exactly, so it meets the converged solution of another solver
    make_run(plain, "exact", chain={"integrator": "gaussian", "eta": 0.0})
    exact = baselines_of(plain, "exact")
    assert exact.own_error < 10 * max(exact.converged_error, 1e-4)


def test_gaps_do_not_dilute_errors(tmp_path: Path) -> None:
    make_model(tmp_path, land=True)
    make_run(tmp_path, "run", samples=1)
    with open_run(tmp_path / "run") as dataset:
        model = load_model(tmp_path / "red")
        config = RunConfig.model_validate(json.loads(dataset.attrs["piadm_config"]))
        own = model.encode({"tas": dataset.tas.values})
    assert model.mask is not None
    moved = own + 0.5 * model.mask.reshape(model.event_shape).to(own.dtype)
    assert measure(make_sampler(config, model), model.process, moved, [0], tol=0.1).own_error == pytest.approx(0.5, rel=0.01)


# --- the report -------------------------------------------------------------------------------------------------------


def test_a_report_of_a_run(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[tuple[float, str]]()
    monkeypatch.setattr(Progress, "show", lambda self, done, note: shown.append((done, note)))
    text = report(plain / "run", baselines=1)
    assert shown[:3] == [
        (0, "DPM-Solver++(2M) with 400 steps"),
        (1, "DPM-Solver++(2M) with 200 steps"),
        (2, "the chain step by step"),
    ]
    assert [done for done, _ in shown] == list(range(len(shown)))
    words = ("this run", "same chain step by step", "DPM-Solver++(2M) within tol", "the chain is stochastic", "area mean [K]")
    assert all(word in text for word in words)
    assert (plain / "run" / "report.png").read_bytes()[:4] == b"\x89PNG"
    record = json.loads((plain / "run" / "report.json").read_text())
    assert record["baselines"]["samples"] == [0] and record["scores"]["tas"]["num_samples"] == 3
    assert len(record["spectra"]["tas"]["samples"]) == 25
    assert max(map(len, text.splitlines())) < 160


def test_scores_go_into_the_card_and_the_model_stays_the_same(tmp_path: Path, drawn: list[str]) -> None:
    make_model(tmp_path)
    run = make_run(tmp_path, "run")
    before = load_model(tmp_path / "red")
    text = report(run, card=True)
    after = load_model(tmp_path / "red")
    assert "scores of the samples: " in text and after.sha256 == before.sha256
    assert after.card["samples"]["tas"]["num_samples"] == 3 and after.card["samples"]["run"]["grid"]["steps"] == 12


def test_the_summary_of_the_run_gives_seconds_and_shares(plain: Path, drawn: list[str]) -> None:
    run = make_run(plain, "timed", samples=2)
    (run / "summary.json").unlink(missing_ok=True)
    assert "seconds are not known" in report(run)
    summary = {
        "num_samples": 2,
        "not_converged": 0,
        "rounds": 3,
        "calls": 30,
        "sequential_rounds": 12,
        "sweeps": [3],
        "seconds": 5.0,
        "communication": 1.0,
        "writing": 0.25,
        "ranks": "1 sample group x 2 time ranks",
    }
    (run / "summary.json").write_text(json.dumps(summary))
    text = report(run)
    assert "communication 20 %, writing 5 %" in text and "this run (1 sample group x 2 time ranks)" in text and "2.5" in text
    (run / "summary.json").write_text(json.dumps(summary | {"num_samples": 0}))
    assert "seconds are not known" in report(run)
    (run / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary.json: not a readable"):
        report(run)


def test_blocks_and_several_variables_and_land(tmp_path: Path, drawn: list[str]) -> None:
    make_model(tmp_path, land=True, extra=True)
    run = make_run(tmp_path, "run", samples=1, grid={"steps": 12, "blocks": 3}, chain={"integrator": "gaussian", "eta": 0.0})
    text = report(run)
    assert "pr " in text and "tas" in text and "points without data" in text and "3 blocks" in text
    assert drawn == ["report.png", "report-pr.png"]


def test_a_model_without_statistics_is_reported_without_scores(tmp_path: Path, drawn: list[str]) -> None:
    make_model(tmp_path)
    run = make_run(tmp_path, "run")
    (tmp_path / "red" / "statistics.h5").unlink()
    text = report(run)
    assert "no scores" in text and drawn == ["report.png"]
    with open_run(run) as dataset, pytest.raises(ValueError, match=r"statistics\.h5: no such file"):
        score_table(dataset, tmp_path / "red")
    assert "data.nc, 60 fields" in report(run, against=tmp_path / "data.nc")


def test_the_model_is_found_beside_the_run_and_must_be_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[str]
) -> None:
    make_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path, "run", model="red")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "3 samples of red" in report(run)
    (run / "run.toml").unlink()
    assert "3 samples of red" in report(run), "the configuration stored with the samples is enough"
    card = tmp_path / "red" / "card.toml"
    card.write_text(card.read_text().replace("[sha256]", '[sha256]\n"another" = "0"'))
    with pytest.raises(ValueError, match="is not the model the samples were made with"):
        report(run)
    (tmp_path / "red").rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="its model cannot be found"):
        report(run)


def test_without_matplotlib_the_table_is_still_there(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = report(plain / "run")
    assert "piadm_hpc[plot]" in text and "area mean" in text


# --- figures and tables -----------------------------------------------------------------------------------------------


def picture(**changes: Any) -> Picture:
    fields = red_fields(5)
    reference = reference_of("data", red_fields(20, seed=1), WEIGHTS)
    made = Picture(
        title="title",
        name="tas",
        attrs={"units": "K", "standard_name": "air_temperature"},
        grid=GLOBE,
        fields=fields,
        names=range(5),
        power=ensemble(fields, reference).power,
        reference=reference,
        sweeps=np.array([[3], [4], [4], [4], [5]]),
        residual=np.full((5, 1), 1e-3),
        tol=1e-2,
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reference": None, "power": None},
        {"sweeps": np.full((5, 4), 12), "residual": np.zeros((5, 4))},
        {"fields": red_fields(1), "power": None, "reference": None, "grid": replace(GLOBE, geographic=False, labels=("y", "x"))},
        {"fields": np.zeros((2, 18, 48)), "attrs": {"units": "kg m-2"}, "residual": np.full((5, 1), np.inf)},
        # TeX would refuse each of these
        {"title": r"$\nothing$", "name": "t_{$_$}", "attrs": {"units": r"$\frac$ mm_day^-1"}},
    ],
)
def test_figures_of_unusual_runs(tmp_path: Path, changes: dict) -> None:
    draw(picture(**changes), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 20_000


def test_figures_leave_the_users_matplotlib_alone(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw(picture(), tmp_path / "a.png")
    assert dict(mpl.rcParams) == before


def test_without_matplotlib_drawing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotError, match=r"piadm_hpc\[plot\]"):
        draw(picture(), tmp_path / "a.png")


def test_colour_scales_end_on_plain_numbers() -> None:
    assert [round_up(value) for value in (0.0, 0.93, 3.4, 41.0, float("nan"))] == [1.0, 1.0, 4.0, 50.0, 1.0]


def test_columns_are_aligned() -> None:
    lines = table(["a", "bb"], [["long name", "1"], ["x", "100"]])
    assert lines == ["a           bb", "--------------", "long name    1", "x          100"]


def test_spectra_agree_with_those_shipped() -> None:
    fields = red_fields(7)
    reference = reference_of("x", fields, WEIGHTS)
    power = ensemble(fields, reference).power.mean(0)
    assert np.allclose(power, zonal_power(fields - fields.mean(0), np.cos(np.deg2rad(LAT))))
