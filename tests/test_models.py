"""Networks on the sphere, denoisers, analytic scores, and model folders."""

import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

from piadm_hpc.data.normalise import Normalisation
from piadm_hpc.gaussian.harmonics import HarmonicEOF, fit_harmonic_eof
from piadm_hpc.gaussian.masked import MaskedEOF, shell_degrees
from piadm_hpc.gaussian.reference import GaussianReference, from_fields
from piadm_hpc.gaussian.regional import RegionalEOF
from piadm_hpc.gaussian.shared import SharedEOF
from piadm_hpc.models.analytic import GaussianMixture, ScaleMixture, sphere_field, target_a, target_b, target_c
from piadm_hpc.models.base import EDMPreconditioned, wrap
from piadm_hpc.models.card import load_model, save_model
from piadm_hpc.models.config import NetworkConfig
from piadm_hpc.models.denoiser import DenoiserScore, GaussianDenoiser
from piadm_hpc.models.networks.unet import GridPad, GridUNet, count_parameters
from piadm_hpc.models.packing import describe_reference
from piadm_hpc.models.record import FORMAT, Card, ProcessCard, VariableCard
from piadm_hpc.models.registry import find_model, shipped_models
from piadm_hpc.schema.layout import Coordinate
from piadm_hpc.store.arrays import read_arrays
from piadm_hpc.theory.bases import EOF, Fourier, Pixelwise, SphericalHarmonics
from piadm_hpc.theory.process import EDM, OU, VP, Flow, Process

PROCESSES = [OU(), VP(), EDM(), Flow()]
SMALL = NetworkConfig(width=8, multipliers=(1, 2), embedding=16, static_maps=0, dropout=0.0)


def make_unet(nlat: int, nlon: int, *, wrap: bool = True, config: NetworkConfig = SMALL) -> GridUNet:
    torch.manual_seed(0)
    network = GridUNet(2, 1, torch.linspace(80, -80, nlat), nlon, wrap, config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def make_reference(shape: tuple[int, int] = (8, 16), rank: int = 5) -> GaussianReference:
    fields = torch.randn(40, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).cumsum(-1)
    modes = torch.linalg.svd((fields - fields.mean(0)).flatten(1), full_matrices=False).Vh[:rank].T.contiguous()
    return from_fields(fields, EOF(modes, shape))


# --- padding and network ---------------------------------------------------------------------------------------------


def test_beyond_a_pole_lies_the_opposite_meridian() -> None:
    x = torch.arange(4 * 8.0).reshape(1, 1, 4, 8)
    padded = GridPad(True)(x, 2)
    assert padded.shape == (1, 1, 8, 12)
    inner = padded[0, 0, :, 2:-2]
    assert torch.equal(inner[2:-2], x[0, 0])
    assert torch.equal(inner[1], x[0, 0, 0].roll(4)) and torch.equal(inner[0], x[0, 0, 1].roll(4))
    assert torch.equal(inner[-2], x[0, 0, -1].roll(4)) and torch.equal(inner[-1], x[0, 0, -2].roll(4))
    assert torch.equal(padded[0, 0, :, :2], inner[:, -2:]) and torch.equal(padded[0, 0, :, -2:], inner[:, :2])


def test_a_regional_grid_repeats_its_edge() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    padded = GridPad(False)(x)[0, 0]
    assert torch.equal(padded[0, 1:-1], x[0, 0, 0]) and torch.equal(padded[1:-1, -1], x[0, 0, :, -1])


def test_rotating_the_earth_rotates_the_result() -> None:
    network, x, level = make_unet(16, 32), torch.randn(2, 2, 16, 32), torch.tensor([-2.0, 3.0])
    shift = network.stride
    assert torch.allclose(network(x.roll(shift, -1), level), network(x, level).roll(shift, -1), atol=1e-5)


def test_a_regional_network_does_not_see_across_its_edge() -> None:
    network = make_unet(8, 128, wrap=False)
    x = torch.randn(1, 2, 8, 128)
    changed = x.clone()
    changed[..., 0] += 1
    # group normalisation sees the whole grid; beyond it the last columns are far from the first
    apart = (network(changed, torch.zeros(1)) - network(x, torch.zeros(1))).abs().mean((0, 1, 2))
    around = (make_unet(8, 128)(changed, torch.zeros(1)) - make_unet(8, 128)(x, torch.zeros(1))).abs().mean((0, 1, 2))
    assert apart[-4:].mean() < 0.2 * around[-4:].mean()


@pytest.mark.parametrize("shape", [(9, 18), (16, 32), (11, 20)])
def test_any_grid_size_fits(shape: tuple[int, int]) -> None:
    network = make_unet(*shape, config=NetworkConfig(width=8, multipliers=(1, 1, 2), embedding=16))
    assert network(torch.randn(3, 2, *shape), torch.zeros(3)).shape == (3, 1, *shape)


def test_default_network_is_small() -> None:
    network = GridUNet(2, 1, torch.linspace(-87, 87, 64), 128, True, NetworkConfig())
    assert 5e5 < count_parameters(network) < 1e6


# --- denoiser --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
def test_an_untrained_denoiser_is_the_wiener_filter(process: Process) -> None:
    reference = make_reference()
    denoiser = GaussianDenoiser(process, reference, GridUNet(2, 1, torch.linspace(-80, 80, 8), 16, True, SMALL).eval())
    x, t = torch.randn(4, 8, 16, dtype=torch.float64), torch.tensor([0.01, 0.2, 0.6, 0.95])
    assert torch.equal(denoiser(x, t), reference.denoise(process, x, t.double()))
    assert torch.allclose(DenoiserScore(denoiser)(x, t), reference.score(process, x, t), rtol=1e-9, atol=1e-9)


def test_the_remainder_vanishes_at_both_ends_and_keeps_the_dtype() -> None:
    denoiser = GaussianDenoiser(OU(), make_reference(), make_unet(8, 16))
    t = torch.tensor([1e-8, 0.3, 30.0], dtype=torch.float64)
    scale = denoiser.output_scale(t)
    assert scale[0] < 1e-3 and scale[2] < 1e-3 < scale[1]
    assert denoiser(torch.randn(3, 8, 16), t).dtype == torch.float32
    assert denoiser(torch.randn(3, 8, 16).double(), t).dtype == torch.float64


def test_single_and_double_precision_agree() -> None:
    denoiser = GaussianDenoiser(OU(), make_reference(), make_unet(8, 16))
    x, t = torch.randn(3, 8, 16), torch.tensor([0.01, 0.5, 2.0])
    assert torch.allclose(denoiser(x, t).double(), denoiser(x.double(), t), atol=1e-4)


def test_wiener_error_is_the_error_on_gaussian_data() -> None:
    reference, t = make_reference(), torch.tensor([0.05, 0.7])
    denoiser = GaussianDenoiser(OU(), reference)
    generator = torch.Generator().manual_seed(1)
    white = torch.randn(2, 4000, 8, 16, generator=generator, dtype=torch.float64)
    clean = reference.draw(white[0], torch.tensor(1.0).double(), torch.tensor(0.0).double())
    for level, expected in zip(t, denoiser.wiener_error(t.double()), strict=True):
        times = level.double().expand(4000)
        noisy = OU().alpha(level.double()) * clean + OU().sigma(level.double()) * white[1]
        assert float(((denoiser(noisy, times) - clean) ** 2).mean()) == pytest.approx(float(expected), rel=0.02)


def test_points_without_data_stay_zero_and_cost_nothing() -> None:
    valid = torch.ones(8, 16, dtype=torch.bool)
    valid[2:5, 3:9] = False
    base = make_reference()
    modes = torch.linalg.qr(base.basis.modes * valid.flatten()[:, None]).Q
    basis = MaskedEOF(modes, (8, 16), valid.flatten())
    spectrum = torch.cat([base.spectrum, torch.zeros(1, dtype=torch.float64)])
    reference = GaussianReference(torch.zeros(128, dtype=torch.float64), basis, spectrum)
    denoiser = GaussianDenoiser(OU(), reference, make_unet(8, 16), valid)
    x, t = torch.randn(2, 8, 16, dtype=torch.float64), torch.tensor([0.1, 3.0])
    assert torch.equal(denoiser(x, t)[:, ~valid], torch.zeros(2, int((~valid).sum())).double())
    score, linear = DenoiserScore(denoiser)(x, t), reference.score(OU(), x, t)
    assert torch.allclose(score[:, ~valid], linear[:, ~valid])
    assert torch.allclose(basis.synthesise(basis.analyse(x.flatten(1))), x.flatten(1))
    white = torch.randn(5000, 128, dtype=torch.float64)
    assert torch.allclose(basis.energy(basis.analyse(white)), torch.ones(7, dtype=torch.float64), atol=0.1)
    assert shell_degrees(basis).tolist() == [1.0] * 5 + [128.0 - 18 - 5, 18.0]


@pytest.mark.parametrize("split", [1, 4, 7])
def test_rotated_harmonics_are_an_orthonormal_basis(split: int) -> None:
    harmonics = SphericalHarmonics(8, 16, 8, np.linspace(78, -78, 8).tolist(), area_weighted=False)
    rotation = torch.linalg.qr(torch.randn(split**2, split**2, dtype=torch.float64)).Q
    basis = HarmonicEOF(harmonics, rotation, split)
    x = torch.randn(20_000, 128, dtype=torch.float64)
    assert torch.allclose(basis.synthesise(basis.analyse(x)), x, atol=1e-12)
    assert torch.allclose(basis.energy(basis.analyse(x)), torch.ones(basis.num_shells, dtype=torch.float64), atol=0.05)
    degrees, gains = shell_degrees(basis), torch.rand(basis.num_shells, dtype=torch.float64) + 0.1
    matrix = basis.synthesise(basis.expand(gains) * basis.analyse(torch.eye(128, dtype=torch.float64)))
    assert torch.allclose(matrix, matrix.T, atol=1e-12) and float(degrees.sum()) == pytest.approx(128)
    assert float(torch.logdet(matrix)) == pytest.approx(float(degrees @ torch.log(gains)))
    single = basis.to(torch.device("cpu"), torch.float32)
    assert torch.allclose(single.synthesise(single.analyse(x[:3].float())), x[:3].float(), atol=1e-5)


def test_large_scales_get_a_full_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    latitudes = np.linspace(78, -78, 8)
    pattern = torch.as_tensor(np.cos(np.deg2rad(latitudes))[:, None] * np.cos(np.deg2rad(np.arange(16) * 22.5)))
    states = 5 * torch.randn(300, 1, 1, generator=generator) * pattern + 0.1 * torch.randn(300, 8, 16, generator=generator)
    reference = fit_harmonic_eof(states[:200], states[200:], latitudes.tolist(), 8, 4)
    assert isinstance(reference.basis, HarmonicEOF)
    assert float(reference.spectrum[0]) == pytest.approx(25 * float((pattern**2).sum()), rel=0.25)
    assert torch.allclose(reference.spectrum[16:], torch.full((5,), 0.01, dtype=torch.float64), rtol=0.2)


# --- wrappers and analytic scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
def test_all_predictions_give_the_same_score(process: Process) -> None:
    reference = make_reference()
    x, t = torch.randn(3, 8, 16, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = (level[:, None, None] for level in (process.alpha(t), process.sigma(t)))
    denoised = reference.denoise(process, x, t)
    noise = (x - alpha * denoised) / sigma
    total = alpha**2 + sigma**2
    answers = {
        "score": -noise / sigma,
        "eps": noise,
        "x0": denoised,
        "v": (alpha * noise - sigma * denoised) / total,
        "flow": noise - denoised,
    }
    if isinstance(process, OU | VP):
        assert torch.allclose(total, torch.ones_like(total))
    for predicts, answer in answers.items():
        score = wrap(lambda x, t, answer=answer: answer, predicts=predicts, process=process)(x, t)
        assert torch.allclose(score, reference.score(process, x, t), rtol=1e-9), predicts


def test_edm_preconditioning_recovers_the_denoiser() -> None:
    reference, spread = make_reference(), 0.7
    x, t = torch.randn(3, 8, 16, dtype=torch.float64), torch.tensor([0.05, 1.0, 20.0], dtype=torch.float64)
    denoised = reference.denoise(EDM(), x, t)
    total = torch.sqrt(t**2 + spread**2)[:, None, None]
    raw = (denoised - spread**2 / total**2 * x) * total / (t[:, None, None] * spread)
    model = EDMPreconditioned(lambda x, t: raw, spread)
    assert torch.allclose(model(x, t), denoised)
    assert torch.allclose(wrap(model, predicts="x0", process=EDM())(x, t), reference.score(EDM(), x, t))


def test_an_unknown_prediction_is_named() -> None:
    with pytest.raises(ValueError, match=r"'noise'.*eps"):
        wrap(lambda x, t: x, predicts="noise", process=OU())


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("make", [target_a, target_b, target_c])
def test_analytic_scores_are_gradients_of_log_density(process: Process, make: Any) -> None:
    target = make(process, 12)
    t = torch.tensor([0.02, 0.3, 0.6, 0.97], dtype=torch.float64)
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(target.log_density(x, t).sum(), x)
    assert torch.allclose(target(x, t), gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("basis", [SphericalHarmonics(8, 16, 5), Fourier((8, 16)), Pixelwise((8, 16)), make_reference().basis])
def test_mixtures_in_a_basis(basis: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(3, 128, generator=generator, dtype=torch.float64)
    variances = torch.rand(3, basis.num_shells, generator=generator, dtype=torch.float64) + 0.2
    target = GaussianMixture(OU(), means, variances, torch.tensor([1.0, 2.0, 3.0]), basis)
    x = torch.randn(2, 8, 16, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.1, 1.0])
    (gradient,) = torch.autograd.grad(target.log_density(x, t).sum(), x)
    assert torch.allclose(target(x, t), gradient, rtol=1e-7, atol=1e-9)
    assert float(shell_degrees(basis).sum()) == pytest.approx(128)


@pytest.mark.parametrize("target", [target_a(OU(), 20), target_b(OU(), 20), target_c(OU(), 20, seed=2)])
def test_samples_have_the_stated_moments(target: Any) -> None:
    samples = target.sample(20_000, torch.Generator().manual_seed(0))
    reference = target.reference()
    assert samples.dtype == torch.float64
    assert torch.allclose(samples.var(0), reference.spectrum, rtol=0.15)
    assert float(((samples.mean(0) - reference.mean) / torch.sqrt(reference.spectrum)).abs().max()) < 0.04


def test_sphere_field_has_its_angular_spectrum() -> None:
    power = 1 / (1 + torch.arange(6.0)) ** 2
    target = sphere_field(VP(), 8, 16, power)
    samples = target.sample(4000, torch.Generator().manual_seed(0)).flatten(1)
    basis = target.reference().basis
    energy = basis.energy(basis.analyse(samples))
    assert torch.allclose(energy[:6], power.double(), rtol=0.1) and float(energy[6]) < 1e-20
    x, t = torch.randn(2, 8, 16, dtype=torch.float64), torch.tensor([0.2, 0.9])
    assert torch.equal(target(x, t), target.reference().score(VP(), x, t))


def test_analytic_targets_say_what_does_not_fit() -> None:
    ones = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="spectrum"):
        ScaleMixture(OU(), -ones, (0.5, 0.5), (1.0, 2.0))
    with pytest.raises(ValueError, match="scales"):
        ScaleMixture(OU(), ones, (0.5, 0.5), (1.0,))
    with pytest.raises(ValueError, match=r"variances must be \[2, 3\], got \(2, 4\)"):
        GaussianMixture(OU(), torch.zeros(2, 3), torch.ones(2, 4), torch.ones(2))


# --- model folders ---------------------------------------------------------------------------------------------------


def make_folder(folder: Path, *, gaps: bool = False, network: bool = True) -> Path:
    reference = make_reference()
    mask = np.ones((1, 8, 16), dtype=bool)
    mask[0, 0, :4] = not gaps
    normalisation = Normalisation(("tas",), np.full((1, 8, 16), 280.0), np.full((1, 8, 16), 2.0), mask)
    coordinates = {
        "lat": Coordinate(("lat",), np.linspace(80, -80, 8), {"units": "degrees_north"}),
        "lon": Coordinate(("lon",), np.arange(16) * 22.5, {"units": "degrees_east"}),
    }
    card = Card(
        format=FORMAT,
        name="small",
        version="0",
        prediction="x0",
        normalisation="z",
        sha256={},
        process=ProcessCard(name="vp", parameters={"beta_max": 15.0}, horizon=1.0, delta=1e-3),
        variables=(VariableCard(name="tas", dims=("lat", "lon"), units="K"),),
        reference=describe_reference(reference),
        network=SMALL if network else None,
    )
    weights = make_unet(8, 16) if network else None
    return save_model(folder, card, reference, normalisation, coordinates, weights)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = load_model(make_folder(tmp_path / "small", gaps=True))
    assert (model.name, model.event_shape, model.process) == ("small", (8, 16), VP(beta_max=15.0))
    assert (model.horizon, model.delta) == (1.0, 1e-3) and len(model.sha256) == 64
    assert model.layout.variables[0].attrs["units"] == "K" and model.layout.shape(model.layout.variables[0]) == (8, 16)
    assert model.layout.coordinates["lat"].attrs["units"] == "degrees_north"
    reference, mask = make_reference(), torch.ones(8, 16, dtype=torch.bool)
    mask[0, :4] = False
    expected = DenoiserScore(GaussianDenoiser(model.process, reference, make_unet(8, 16), mask))
    x, t = torch.randn(3, 8, 16, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.9])
    # modes are stored in single precision
    assert torch.allclose(model.score(x, t), expected(x, t), rtol=1e-4, atol=1e-4)
    assert model.mask is not None and torch.equal(model.mask, mask.flatten())


def test_decoding_and_encoding_are_inverse(tmp_path: Path) -> None:
    model = load_model(make_folder(tmp_path / "small", gaps=True, network=False))
    x = torch.randn(2, 8, 16)
    fields = model.decode(x)
    assert np.isnan(fields["tas"][:, 0, :4]).all() and np.isfinite(fields["tas"][:, 1:]).all()
    assert np.allclose(fields["tas"][:, 1], 280 + 2 * x[:, 1].numpy())
    back = model.encode(fields)
    assert torch.allclose(back[:, 1:], x[:, 1:], atol=1e-4) and float(back[:, 0, :4].abs().max()) == 0
    with pytest.raises(ValueError, match="accepted is"):
        model.decode(torch.randn(2, 16, 8))
    with pytest.raises(ValueError, match="needed are tas"):
        model.encode({"ts": fields["tas"]})


@pytest.mark.parametrize(
    "reference",
    [
        GaussianReference(torch.zeros(128), SphericalHarmonics(8, 16, 5), torch.rand(6)),
        GaussianReference(torch.zeros(128), Fourier((8, 16)), torch.rand(Fourier((8, 16)).num_shells)),
        GaussianReference(torch.zeros(128), Pixelwise((8, 16)), torch.rand(128)),
        GaussianReference(
            torch.zeros(128),
            HarmonicEOF(SphericalHarmonics(8, 16, 6, np.linspace(80, -80, 8).tolist(), area_weighted=False), torch.eye(16), 4),
            torch.rand(19),
        ),
        GaussianReference(torch.zeros(128), RegionalEOF(torch.eye(128)[:, :5], (8, 16), torch.arange(128) // 50), torch.rand(8)),
        GaussianReference(
            torch.zeros(128),
            SharedEOF(torch.eye(128)[:, :5], torch.tensor([[[1.0]], [[-1.0]]]), torch.tensor([0, 0, 0, 1, 1]), (8, 16)),
            torch.rand(6),
        ),
    ],
)
def test_every_basis_can_be_stored(tmp_path: Path, reference: GaussianReference) -> None:
    folder = make_folder(tmp_path / "small", network=False)
    model = load_model(folder)
    card = Card.model_validate({**model.card, "reference": describe_reference(reference), "sha256": {}})
    loaded = load_model(save_model(folder, card, reference, model.normalisation, model.layout.coordinates))
    x, t = torch.randn(2, 8, 16, dtype=torch.float64), torch.tensor([0.1, 0.8])
    assert torch.allclose(loaded.score(x, t), reference.to("cpu", torch.float64).score(model.process, x, t), rtol=1e-6)


def test_regions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "small", network=False)
    model = load_model(folder)
    for regions in (torch.arange(128) // 50, torch.full((128,), 2)):
        basis = RegionalEOF(torch.eye(128)[:, :5], (8, 16), regions)
        reference = GaussianReference(torch.zeros(128), basis, torch.rand(basis.num_shells))
        card = Card.model_validate({**model.card, "reference": describe_reference(reference), "sha256": {}})
        save_model(folder, card, reference, model.normalisation, model.layout.coordinates)
        if len(regions.unique()) == 3:
            assert load_model(folder).reference.basis.num_shells == 8
    with pytest.raises(ValueError, match=r"reference_regions must be \[8, 16\] numbers from 0 on, each of them used"):
        load_model(folder)


def edit_card(folder: Path, **changes: Any) -> None:
    content = tomllib.loads((folder / "card.toml").read_text())
    for key, value in changes.items():
        content.pop(key) if value is None else content.update({key: value})
    (folder / "card.toml").write_text(tomli_w.dumps(content))


def test_every_fault_of_a_folder_has_its_own_message(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no-such: no such model folder"):
        load_model("no-such")
    with pytest.raises(ValueError, match=r"card\.toml: no such file"):
        load_model(tmp_path)
    for changes, message in [
        ({"format": 99}, r"card\.toml: model format 99 is unknown"),
        ({"prediction": None}, r"card\.toml: prediction: Field required"),
        ({"colour": "red"}, r"card\.toml: colour: Extra inputs"),
        ({"process": {"name": "sde", "horizon": 1.0, "delta": 0.1}}, "unknown process 'sde'"),
    ]:
        folder = make_folder(tmp_path / "small")
        edit_card(folder, **changes)
        with pytest.raises(ValueError, match=message):
            load_model(folder)
    (folder / "card.toml").write_text("format = ")
    with pytest.raises(ValueError, match="not valid TOML"):
        load_model(folder)


def rewrite_weights(folder: Path, change: Any) -> None:
    """Change the weights and bring the card's checksum up to date, so that the next check is reached."""
    import hashlib

    path = folder / "weights.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    sums = tomllib.loads((folder / "card.toml").read_text())["sha256"]
    edit_card(folder, sha256=sums | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()})


def test_every_fault_of_weights_has_its_own_message(tmp_path: Path) -> None:
    name = "stem.conv.bias"
    for change, message in [
        (lambda w: w.update({name: torch.zeros(3)}), rf"{name} is \(3,\), the card's network needs \(8,\)"),
        (lambda w: w[name].fill_(math.nan), f"{name} has values that are not finite"),
        (lambda w: w.pop(name), f"no weight {name}"),
        (lambda w: w.update(odd=torch.zeros(1)), "unknown weight odd"),
    ]:
        folder = make_folder(tmp_path / "small")
        rewrite_weights(folder, change)
        with pytest.raises(ValueError, match=rf"weights\.safetensors: {message}"):
            load_model(folder)


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "small")
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    (folder / "reference.h5").unlink()
    with pytest.raises(ValueError, match=r"(?s)reference\.h5: no such file.*weights\.safetensors: its sha256"):
        load_model(folder)


def test_the_shipped_model_is_whole_and_better_than_gaussian() -> None:
    assert "ccsm-temperature" in shipped_models()
    model = load_model("ccsm-temperature")
    assert model.event_shape == (64, 128) and model.mask is None and isinstance(model.process, OU)
    scores = model.card["scores"]["test"]
    ratio = dict(zip(scores["log_snr"], scores["ratio"], strict=True))
    assert ratio[2.0] < 0.95 and ratio[4.0] < 0.9 and ratio[6.0] < 0.9 and max(ratio.values()) < 1.01
    arrays, _ = read_arrays(find_model("ccsm-temperature") / "statistics.h5")
    fields = arrays["held_out_examples"].values
    states = model.encode({"TREFHT": fields[:, 0]})
    assert np.allclose(model.decode(states)["TREFHT"], fields[:, 0], atol=1e-3)
    assert 200 < fields.min() < 260 and 290 < fields.max() < 320 and float(states.std()) == pytest.approx(1, abs=0.3)
    # one denoising step from a low noise level comes close to the field
    t = torch.full((4,), 0.01, dtype=torch.float64)
    noise = torch.randn(4, 64, 128, generator=torch.Generator().manual_seed(0))
    noisy = states[:4] * float(model.process.alpha(t)[0]) + noise * float(model.process.sigma(t)[0])
    denoised, linear = model.denoiser(noisy, t), model.reference.to("cpu", torch.float32).denoise(model.process, noisy, t)
    errors = [float((estimate - states[:4]).square().mean()) for estimate in (denoised, linear, noisy)]
    assert errors[0] < errors[1] < errors[2]
    assert torch.allclose(model.score(noisy, t).double(), model.score(noisy.double(), t), rtol=1e-2, atol=0.05)
