"""Log-determinants and densities of a collocated flow are compared with closed forms, finite differences and each other."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import add_network, call, make_model, on_ranks
from problems import F64, drawn, mixture, solve
from torch import Tensor

from piadm_hpc.analysis.density import Densities, _write
from piadm_hpc.cli.main import main
from piadm_hpc.config.run import RunConfig
from piadm_hpc.gaussian.density import degrees_within, log_density
from piadm_hpc.gaussian.masked import MaskedEOF
from piadm_hpc.gaussian.reference import GaussianReference, from_fields
from piadm_hpc.models.analytic import GaussianMixture, target_a, target_b, target_c
from piadm_hpc.models.card import load_model
from piadm_hpc.models.target import states_like
from piadm_hpc.models.volume import log_volume
from piadm_hpc.run.resolve import resolve
from piadm_hpc.schema.layout import Coordinate, Layout, Variable
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.encode import decode, encode
from piadm_hpc.solvers.errors import ScoreError
from piadm_hpc.solvers.solve import Solution
from piadm_hpc.store.arrays import read_arrays
from piadm_hpc.theory.bases import EOF, Fourier, Identity, Pixelwise, SphericalHarmonics
from piadm_hpc.theory.noise import Noise
from piadm_hpc.theory.process import EDM, OU, VP, Flow, Process

HORIZON, DELTA = 8.0, 1e-3


def flow_of(target: GaussianMixture, points: int, process: Process | None = None) -> Collocation:
    return Collocation(process or OU(), target.reference(), HORIZON, DELTA, points)


def exact(target: GaussianMixture, made: Collocation, x0: Tensor, found: Solution) -> Tensor:
    """The log-determinant of the exact flow from the closed-form densities at both ends of it."""
    first, last = (t.expand(len(x0)) for t in made.t[[0, -1]])
    return target.log_density(x0, first) - target.log_density(found.x, last)


@pytest.mark.parametrize("process", [OU(), VP(), EDM(), Flow()], ids=lambda p: type(p).__name__)
def test_a_gaussian_has_its_closed_form(process: Process) -> None:
    spectrum = torch.tensor([1e-3, 0.2, 1.0, 30.0], dtype=F64)
    reference = GaussianReference(torch.arange(4, dtype=F64), Pixelwise((4,)), spectrum)
    made = Collocation(process, reference, 6.0, 1e-2, 8)
    x0 = drawn(made, reference, range(3), 3)
    found = solve(made, lambda x, t: reference.score(process, x, t), x0, tol=1e-9, traces="exact")
    assert found.log_det is not None
    ends = [
        torch.distributions.MultivariateNormal(
            process.alpha(t) * reference.mean, torch.diag(process.alpha(t) ** 2 * spectrum + process.sigma(t) ** 2)
        )
        for t in made.t[[0, -1]]
    ]
    truth = ends[0].log_prob(x0) - ends[1].log_prob(found.x)
    assert torch.allclose(found.log_det.value, truth, atol=1e-9, rtol=0)
    own = log_density(reference, process, found.x, made.t[-1])
    assert torch.allclose(own, ends[1].log_prob(found.x), atol=1e-9, rtol=0)
    assert float(found.log_det.error.max()) < 1e-9 and bool((found.log_det.variance == 0).all())


@pytest.mark.parametrize(
    ("make", "points", "sweeps", "most"), [(target_a, 24, 6, 0.02), (target_b, 24, 6, 0.02), (target_c, 24, 6, 0.02)]
)
def test_few_rounds_give_the_density_of_exact_targets(make: Any, points: int, sweeps: int, most: float) -> None:
    target = make(OU(), 64)
    made = flow_of(target, points)
    x0 = drawn(made, target.reference(), range(20), 0)
    found = solve(made, target.score, x0, tol=None, sweeps=sweeps, traces="exact")
    assert found.log_det is not None and found.rounds.tolist() == [sweeps + 1] * 20
    assert found.calls.tolist() == [points * (sweeps + 1)] * 20
    error = found.log_det.value - exact(target, made, x0, found)
    assert float(error.square().mean().sqrt()) <= most


@pytest.mark.parametrize("make", [target_a, target_b, target_c])
@pytest.mark.parametrize("traces", ["exact", 8])
def test_the_error_bar_covers_the_truth(make: Any, traces: str | int) -> None:
    target = make(OU(), 32)
    made = flow_of(target, 16)
    x0 = drawn(made, target.reference(), range(100), 1)
    found = solve(made, target.score, x0, tol=1e-2, traces=traces, noise=Noise(5, 32))
    assert found.log_det is not None
    error = (found.log_det.value - exact(target, made, x0, found)).abs()
    assert int((error <= found.log_det.error).sum()) >= 95


def test_pieces_add_up() -> None:
    """A flow of few points, cut into pieces, has the log-determinant of many points in one piece."""
    target = mixture(OU())
    few, many = flow_of(target, 6), flow_of(target, 40)
    x0 = drawn(many, target.reference(), range(4), 2)
    cut = solve(few, target.score, x0, tol=1e-3, traces="exact")
    whole = solve(many, target.score, x0, tol=1e-7, traces="exact")
    assert cut.log_det is not None and whole.log_det is not None
    assert bool((cut.calls > 6 * cut.rounds).all())  # the traces cover more nodes than one piece has
    error = (cut.log_det.value - whole.log_det.value).abs()
    assert bool((error <= cut.log_det.error + whole.log_det.error).all()) and float(error.max()) < 0.1


def test_it_is_the_determinant_of_the_map_that_was_computed() -> None:
    """The Jacobian is computed by central differences, and the map includes a projection to a subspace."""
    target = mixture(OU(), 5)
    kept = torch.tensor([1.0, 1, 0, 1, 1], dtype=F64)
    made = flow_of(target, 32)
    x0 = drawn(made, target.reference(), range(1), 4) * kept
    step = 1e-4
    moved = torch.cat([x0 + sign * step * torch.eye(5, dtype=F64)[kept > 0] for sign in (1, -1)])
    settings = {"tol": 1e-9, "project": lambda x: x * kept.to(x)}
    ends = solve(made, target.score, moved, **settings).x
    jacobian = ((ends[:4] - ends[4:]) / (2 * step))[:, kept > 0]
    found = solve(made, target.score, x0, traces="exact", **settings)
    assert found.log_det is not None
    assert float(found.log_det.value[0]) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-5)


def bases() -> list[tuple[str, GaussianReference]]:
    """References in every kind of basis, of fields 6 x 8."""
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(40, 6, 8, dtype=F64, generator=generator)
    modes = torch.linalg.qr(torch.randn(48, 5, dtype=F64, generator=generator))[0]
    valid = torch.ones(48, dtype=torch.bool)
    valid[:9] = False
    dry = torch.linalg.qr(torch.where(valid[:, None], modes, 0))[0]
    made = {
        "identity": Identity((6, 8)),
        "pixelwise": Pixelwise((6, 8)),
        "eof": EOF(modes, (6, 8)),
        "masked": MaskedEOF(dry, (6, 8), valid),
        "fourier": Fourier((6, 8)),
        "sphere": SphericalHarmonics(6, 8, 3),
    }
    return [(name, from_fields(fields, basis)) for name, basis in made.items()]


@pytest.mark.parametrize(("name", "reference"), bases(), ids=[name for name, _ in bases()])
def test_probes_are_exact_on_the_gaussian_and_unbiased_elsewhere(name: str, reference: GaussianReference) -> None:
    """In every basis, probes have no variance if the score is the reference's own; otherwise their mean is the exact trace."""
    valid = reference.basis.valid if isinstance(reference.basis, MaskedEOF) else torch.ones(48, dtype=torch.bool)
    kept = valid.to(F64).reshape(6, 8)
    made = Collocation(OU(), reference, 6.0, 1e-2, 6)
    generator = torch.Generator().manual_seed(1)
    bend = 0.3 * torch.randn(48, 48, dtype=F64, generator=generator) / 48**0.5

    def score(x: Tensor, t: Tensor, size: float) -> Tensor:
        flat = x.reshape(len(x), -1)
        more = size * torch.tanh(flat @ bend) * torch.exp(-t)[:, None]
        return reference.score(OU(), x, t) + more.reshape(x.shape)

    x0 = (drawn(made, reference, range(2), 0).reshape(2, 6, 8)) * kept
    settings = {"tol": None, "sweeps": 4, "noise": Noise(1, 48), "project": lambda x: x * kept.to(x)}
    for size, probes in ((0.0, 2), (1.0, 400)):
        two = [solve(made, lambda x, t: score(x, t, size), x0, traces=traces, **settings).log_det for traces in ("exact", probes)]  # noqa: B023
        assert two[0] is not None and two[1] is not None
        gap, deviation = (two[1].value - two[0].value).abs(), torch.sqrt(two[1].variance)
        assert bool((gap <= 4 * deviation + 1e-9).all())
        assert (float(deviation.max()) < 1e-9) == (size == 0)


def test_weights_from_probes_are_unbiased_once_half_the_variance_is_subtracted() -> None:
    """Only after the correction has exp(log q exact - log q from probes) the mean one over many draws of a small target."""
    target = target_c(OU(), 64)
    made = flow_of(target, 12)
    x0 = drawn(made, target.reference(), range(300), 0)
    settings = {"tol": None, "sweeps": 3, "noise": Noise(3, 64)}
    exactly, probed = (solve(made, target.score, x0, traces=traces, **settings).log_det for traces in ("exact", 2))
    assert exactly is not None and probed is not None
    logs = probed.value - exactly.value
    corrected = torch.exp(logs - probed.variance / 2)
    error = float(corrected.std()) / 300**0.5
    assert abs(float(corrected.mean()) - 1) < 4 * error
    assert float(torch.exp(logs).mean()) - 1 > 4 * error


def test_batches_and_slots_do_not_change_a_density() -> None:
    target = target_c(OU(), 16)
    made = flow_of(target, 12)
    x0 = drawn(made, target.reference(), range(7), 0)
    for traces in ("exact", 3):
        settings = {"tol": 1e-3, "traces": traces, "noise": Noise(2, 16)}
        whole = solve(made, target.score, x0, **settings)
        few = solve(made, target.score, x0, in_flight=2, model_batch=5, **settings)
        order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
        mixed = solve(made, target.score, x0[order], samples=order.tolist(), **settings)
        for other, rows in ((few, torch.arange(7)), (mixed, order)):
            for name in ("value", "error", "variance"):
                assert torch.allclose(getattr(other.log_det, name), getattr(whole.log_det, name)[rows], rtol=1e-9, atol=1e-9)


def test_there_and_back_again() -> None:
    """Data that are encoded as first states and decoded come back, and both directions have the same log-determinant."""
    target = target_c(OU(), 16)
    made = flow_of(target, 24)
    data = target.sample(8, torch.Generator().manual_seed(0))
    there = solve(made.reversed(), target.score, data, tol=1e-4, traces="exact")
    back = solve(made, target.score, there.x, tol=1e-4, traces="exact")
    assert bool(there.converged.all()) and float((back.x - data).square().mean(1).sqrt().max()) < 1e-3
    assert there.log_det is not None and back.log_det is not None
    assert torch.allclose(there.log_det.value, -back.log_det.value, atol=1e-2)
    made_up = log_density(target.reference(), OU(), there.x, made.t[0]) + there.log_det.value
    truth = target.log_density(data, made.t[-1:].expand(8))
    assert torch.allclose(made_up, truth, atol=0.05)


def test_a_condition_reaches_the_traces() -> None:
    """The condition is the mean of a Gaussian, so that the conditional densities are those of the shifted Gaussian."""
    reference = GaussianReference(torch.zeros(4, dtype=F64), Pixelwise((4,)), torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=F64))
    made = Collocation(OU(), reference, 6.0, 1e-2, 24)

    def score(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return reference.score(OU(), x - OU().alpha(t)[:, None] * c, t) * (
            1 + 0.1 * torch.tanh(c[:, :1]) * torch.exp(-t)[:, None]
        )

    x0 = drawn(made, reference, range(3), 0)
    means = torch.tensor([[0.0], [1.0], [-2.0]], dtype=F64).expand(3, 4)
    found = solve(made, score, x0, tol=1e-8, traces="exact", condition=means)
    for k in range(3):
        alone = solve(made, lambda x, t: score(x, t, means[k : k + 1].expand_as(x)), x0[k : k + 1], tol=1e-8, traces="exact")  # noqa: B023
        assert alone.log_det is not None and found.log_det is not None
        assert torch.allclose(alone.log_det.value, found.log_det.value[k : k + 1], atol=1e-6)
    assert float(found.log_det.value.std()) > 1e-3  # type: ignore[union-attr]


def test_what_cannot_be_is_refused() -> None:
    target = mixture(OU())
    made = flow_of(target, 8)
    x0 = drawn(made, target.reference(), range(1), 0)
    for traces in (1, True, "many"):
        with pytest.raises(ValueError, match="a number of probes, at least 2"):
            solve(made, target.score, x0, traces=traces)
    with pytest.raises(ValueError, match="drawn from a seed"):
        solve(made, target.score, x0, traces=4)
    with pytest.raises(ScoreError, match="no gradient"):
        solve(made, lambda x, t: target.score(x, t).detach(), x0, traces="exact")
    mixing = torch.full((12, 12), 1 / 12, dtype=F64)
    with pytest.raises(ValueError, match="mixes shells"):
        degrees_within(target.reference().basis, lambda x: x @ mixing.to(x), x0)


def test_degrees_of_a_subspace() -> None:
    reference = dict(bases())["masked"]
    assert isinstance(reference.basis, MaskedEOF)
    valid = reference.basis.valid
    kept = degrees_within(reference.basis, lambda x: x * valid.to(x), reference.mean)
    assert kept.tolist() == [1.0] * 5 + [34.0, 0.0]
    x = torch.randn(2, 48, dtype=F64, generator=torch.Generator().manual_seed(0))
    within = log_density(reference, OU(), x, torch.tensor(0.5, dtype=F64), degrees=kept, project=lambda x: x * valid.to(x))
    variance = reference.variance(OU().alpha(torch.tensor([0.5], dtype=F64)), OU().sigma(torch.tensor([0.5], dtype=F64)))[0]
    matrix = reference.basis.synthesise(reference.basis.expand(variance) * reference.basis.analyse(torch.eye(48, dtype=F64)))
    away = (x - math.exp(-0.25) * reference.mean)[:, valid]
    normal = torch.distributions.MultivariateNormal(torch.zeros(39, dtype=F64), matrix[valid][:, valid])
    assert torch.allclose(within, normal.log_prob(away), atol=1e-8)


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Gaussian model of 8 x 16 fields, next to the fields to which it was fitted."""
    return make_model(tmp_path_factory.mktemp("density"))


def test_data_under_a_gaussian_model_have_the_closed_form_in_physical_units(gaussian: Path) -> None:
    """They agree to 1e-6, whichever way the traces are computed."""
    model = load_model(gaussian)
    x = states_like(gaussian, model, gaussian.parent / "fields.nc")[:6].double()
    reference, at = model.reference, torch.tensor(model.delta, dtype=F64)
    variance = reference.variance(model.process.alpha(at[None]), model.process.sigma(at[None]))[0]
    identity = torch.eye(128, dtype=F64)
    matrix = reference.basis.synthesise(reference.basis.expand(variance) * reference.basis.analyse(identity))
    normal = torch.distributions.MultivariateNormal(model.process.alpha(at) * reference.mean, matrix)
    scale = torch.as_tensor(model.normalisation.scale, dtype=F64)  # type: ignore[union-attr]
    truth = normal.log_prob(x.flatten(1)) - torch.log(scale).sum()
    for traces in ("exact", 2):
        config = RunConfig(
            model=str(gaussian), density={"enabled": True, "traces": traces},
            solver={"tol": 1e-8}, compute={"precision": "float64"}, grid={"steps": 8},
        )  # fmt: skip
        sampler = resolve(config, model).sampler
        encoded = encode(sampler, x)
        assert encoded.log_density is not None
        assert torch.allclose(encoded.log_density - log_volume(model, x), truth, rtol=1e-6, atol=0)
        back = decode(sampler, encoded.first)
        assert torch.allclose(back.x, x, atol=1e-6)
        # the encoded noise of data has as many degrees of freedom as the state
        assert torch.allclose(encoded.white.flatten(1).square().sum(1) / 2, -normal.log_prob(x.flatten(1)) + _constant(matrix))


def _constant(matrix: Tensor) -> Tensor:
    return -64 * math.log(2 * math.pi) - torch.linalg.slogdet(matrix)[1] / 2


def test_a_corrupted_field_is_found(gaussian: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command reads a file in which one region of one field is shifted by three standard deviations."""
    with xr.open_dataset(gaussian.parent / "fields.nc") as dataset:
        fields = dataset.load()
    fields["tas"][7, 2:5, 4:9] += 3 * float(fields["tas"].std())
    fields.isel(time=slice(0, 12)).to_netcdf(tmp_path / "data.nc")
    out = tmp_path / "density.h5"
    assert main(["density", "--model", str(gaussian), "--data", str(tmp_path / "data.nc"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[0] == "7"
    arrays, _ = read_arrays(out)
    assert int(arrays["bits_per_dimension"].values.argmax()) == 7 == int(arrays["anomaly"].values.argmax())
    surprise = arrays["surprise_tas"].values
    assert surprise.shape == (12, 8, 16)
    inside = surprise[7, 2:5, 4:9].mean()
    assert inside > 3 * (surprise[7].sum() - 15 * inside) / 113
    assert np.allclose(arrays["log_density_gaussian"].values, arrays["log_density"].values, atol=1e-2)


def test_densities_do_not_depend_on_ranks_and_batches(gaussian: Path, tmp_path: Path) -> None:
    """The command runs alone, on 2 ranks that share nodes, on 4 that also share fields, and in other batches."""
    model = add_network(gaussian, tmp_path / "network")
    with xr.open_dataset(gaussian.parent / "fields.nc") as dataset:
        dataset.isel(time=slice(0, 3)).to_netcdf(tmp_path / "data.nc")

    few = ["--traces", 2, "--tol", 0.1]

    def command(name: str, *more: object) -> dict[str, Any]:
        return {"args": ["density", "--model", model, "--data", tmp_path / "data.nc", "--out", tmp_path / name, *few, *more]}

    assert call(*command("alone")["args"], "--batch", 3)["code"] == 0
    for ranks, name in ((2, "two"), (4, "four")):
        done, reports = on_ranks(ranks, tmp_path / f"on-{ranks}", [command(name, "--time-ranks", 2)])
        assert done.returncode == 0 and all(report["code"] == 0 for rank in reports for report in rank), (done.stderr, reports)
        assert all(not report["out"] for rank in reports[1:] for report in rank)
    alone, _ = read_arrays(tmp_path / "alone")
    for name in ("two", "four"):
        found, _ = read_arrays(tmp_path / name)
        assert np.allclose(found["log_density"].values, alone["log_density"].values, rtol=1e-6, atol=0), name
        assert np.allclose(found["surprise_tas"].values, alone["surprise_tas"].values, rtol=1e-3, atol=1e-3), name
    assert np.ptp(alone["log_density"].values - alone["log_density_gaussian"].values) > 1e-2


def test_what_has_no_density_is_refused(gaussian: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(gaussian.parent / "fields.nc"), "--out", str(tmp_path / "density.h5")]
    assert main(["density", "--model", "alanine-dipeptide", *data]) == 2
    assert "draws conformers" in capsys.readouterr().err
    assert main(["density", "--model", str(gaussian), *data, "--traces", "1"]) == 2
    assert "a number of probes from 2" in capsys.readouterr().err
    model = load_model(gaussian)
    sampler = resolve(RunConfig(model=str(gaussian), chain={"integrator": "ddim"}), model).sampler
    with pytest.raises(ValueError, match="flow solved by collocation can be solved backward"):
        encode(sampler, torch.zeros(1, 8, 16))


def test_maps_of_surprise_have_the_levels_of_their_variables(tmp_path: Path) -> None:
    """One variable has two levels, another has none."""
    coordinates = {name: Coordinate((name,), np.arange(size)) for name, size in (("plev", 2), ("lat", 3), ("lon", 4))}
    variables = (Variable("ta", ("plev", "lat", "lon")), Variable("ps", ("lat", "lon")))
    model: Any = SimpleNamespace(name="levels", layout=Layout(variables, coordinates, leading=("plev",)))
    surprise = np.arange(5.0 * 3 * 3 * 4).reshape(5, 3, 3, 4)
    _write(tmp_path / "density.h5", model, Densities(*np.zeros((5, 5)), surprise, 36), "data.nc")
    arrays, _ = read_arrays(tmp_path / "density.h5")
    np.testing.assert_array_equal(arrays["surprise_ta"].values, surprise[:, :2])
    np.testing.assert_array_equal(arrays["surprise_ps"].values, surprise[:, 2])
    assert arrays["surprise_ps"].dims == ("sample", "lat", "lon")
