"""Bases agree with dense linear algebra and an independent library, and references with automatic differentiation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import sph_harm_y

from piadm_hpc.gaussian.reference import GaussianReference, eof, from_fields, isotropic
from piadm_hpc.gaussian.regional import RegionalEOF
from piadm_hpc.theory.bases import EOF, Fourier, Identity, Pixelwise, SphericalHarmonics
from piadm_hpc.theory.process import EDM, OU, Flow

F64 = torch.float64


def random_eof(d: int, rank: int) -> EOF:
    return EOF(torch.linalg.qr(torch.randn(d, rank, dtype=F64, generator=torch.Generator().manual_seed(1)))[0], (d,))


def regional_eof() -> RegionalEOF:
    """Five modes of two regions of five points, three in one, and of two points without data."""
    modes = torch.zeros(12, 5, dtype=F64)
    modes[:5, :3], modes[5:10, 3:] = random_eof(5, 3).modes, random_eof(5, 2).modes
    return RegionalEOF(modes @ random_eof(5, 5).modes, (12,), torch.tensor([0] * 5 + [1] * 5 + [2] * 2))


BASES = {
    "identity": Identity((12,)),
    "pixelwise": Pixelwise((3, 4)),
    "eof": random_eof(12, 5),
    "regional": regional_eof(),
    "fourier even": Fourier((6, 8)),
    "fourier odd": Fourier((15,)),
    "fourier cube": Fourier((3, 4, 5)),
    "sphere": SphericalHarmonics(8, 16, 6),
    "sphere unweighted": SphericalHarmonics(8, 16, 6, area_weighted=False),
    "sphere regular": SphericalHarmonics(8, 16, 5, latitudes=np.linspace(-80, 80, 8).tolist()),
}


def operator(basis: Any, gains: torch.Tensor) -> torch.Tensor:
    """Return the operator with the given gains per shell as a dense matrix."""
    unit = torch.eye(math.prod(basis.event_shape), dtype=F64)
    return basis.synthesise(basis.expand(gains) * basis.analyse(unit))


@pytest.mark.parametrize("name", BASES)
def test_analysis_and_synthesis_are_inverse(name: str) -> None:
    basis = BASES[name]
    x = torch.randn(7, 2, math.prod(basis.event_shape), dtype=F64)
    z = basis.analyse(x)
    assert z.shape == (7, 2, basis.num_coords)
    assert torch.allclose(basis.synthesise(z), x, atol=1e-13)


@pytest.mark.parametrize("name", BASES)
def test_gains_act_as_symmetric_commuting_operators(name: str) -> None:
    basis = BASES[name]
    first, second = (torch.rand(basis.num_shells, dtype=F64) + 0.5 for _ in range(2))
    a, b = operator(basis, first), operator(basis, second)
    assert torch.allclose(a, a.T, atol=1e-12)
    assert torch.allclose(a @ b, operator(basis, first * second), atol=1e-12)
    assert torch.allclose(torch.linalg.inv(a), operator(basis, 1 / first), atol=1e-11)


@pytest.mark.parametrize("name", BASES)
def test_white_noise_has_energy_one_in_every_shell(name: str) -> None:
    basis = BASES[name]
    x = torch.randn(40_000, math.prod(basis.event_shape), dtype=F64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(basis.energy(basis.analyse(x)), torch.ones(basis.num_shells, dtype=F64), atol=0.04)


@pytest.mark.parametrize("degree, order", [(0, 0), (3, 2), (9, 0), (11, 7), (15, 15)])
def test_spherical_harmonics_against_scipy(degree: int, order: int) -> None:
    basis = SphericalHarmonics(16, 36, 16)
    nodes = np.polynomial.legendre.leggauss(16)[0][::-1]
    colatitude, longitude = np.arccos(nodes)[:, None], 2 * np.pi * np.arange(36)[None] / 36
    field = torch.tensor(sph_harm_y(degree, order, colatitude, longitude).real)
    z = basis.analyse((basis.sqrt_weights[:, None] * field).reshape(1, -1))[0]
    excited = z.abs() > 1e-12 * z.abs().max()
    assert excited.sum() == 1 and basis.shells[excited].item() == degree


def test_spherical_basis_of_model_latitudes_is_the_gaussian_one() -> None:
    nodes = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(10)[0]))
    x = torch.randn(3, 10, 20, dtype=F64)
    south, north = SphericalHarmonics(10, 20, 8, latitudes=nodes.tolist()), SphericalHarmonics(10, 20, 8)
    gains = torch.rand(9, dtype=F64)
    flipped = operator(north, gains) @ x.flip(1).flatten(1).T
    assert torch.allclose((operator(south, gains) @ x.flatten(1).T).T.reshape(3, 10, 20).flip(1).flatten(1), flipped.T, atol=1e-9)


def dense_reference() -> tuple[GaussianReference, torch.Tensor]:
    basis = random_eof(9, 4)
    reference = GaussianReference(torch.linspace(-1, 1, 9, dtype=F64), basis, torch.tensor([4.0, 2.0, 1.0, 0.3, 0.05], dtype=F64))
    return reference, operator(basis, reference.spectrum)


@pytest.mark.parametrize("process, t", [(OU(), 0.7), (EDM(), 1.3), (Flow(), 0.4)])
def test_score_and_denoiser_against_automatic_differentiation(process: Any, t: Any) -> None:
    reference, covariance = dense_reference()
    time = torch.tensor(t, dtype=F64)
    a, s = process.alpha(time), process.sigma(time)
    marginal = torch.distributions.MultivariateNormal(a * reference.mean, a**2 * covariance + s**2 * torch.eye(9, dtype=F64))
    x = torch.randn(5, 9, dtype=F64, requires_grad=True)
    expected = torch.autograd.grad(marginal.log_prob(x).sum(), x)[0]
    score = reference.score(process, x.detach(), time.expand(5))
    assert torch.allclose(score, expected, atol=1e-11)
    assert torch.allclose(reference.denoise(process, x.detach(), time.expand(5)), (x + s**2 * expected) / a, atol=1e-11)


def test_closed_form_flow_solves_the_probability_flow_equation() -> None:
    reference, _ = dense_reference()
    process, x = OU(), torch.randn(1, 9, dtype=F64)

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        state, time = torch.tensor(y)[None], torch.tensor([t], dtype=F64)
        return (-0.5 * state - 0.5 * reference.score(process, state, time))[0].numpy()

    oracle = solve_ivp(slope, (3.0, 0.01), x[0].numpy(), rtol=1e-10, atol=1e-12).y[:, -1]
    moved = reference.flow(process, x, torch.tensor([3.0], dtype=F64), torch.tensor([0.01], dtype=F64))[0]
    assert np.allclose(moved.numpy(), oracle, atol=1e-7)


def test_fitted_references_recover_mean_and_covariance() -> None:
    reference, covariance = dense_reference()
    level = torch.tensor(1.0, dtype=F64), torch.tensor(0.0, dtype=F64)
    draws = reference.draw(torch.randn(60_000, 9, dtype=F64, generator=torch.Generator().manual_seed(2)), *level)
    assert torch.allclose(torch.cov(draws.T), covariance, atol=0.08)
    fitted = eof(draws, 4)
    assert torch.allclose(fitted.mean, reference.mean, atol=0.05)
    assert torch.allclose(fitted.spectrum, reference.spectrum, rtol=0.05)
    assert torch.allclose(from_fields(draws, reference.basis).spectrum, reference.spectrum, rtol=0.05)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GaussianReference(torch.zeros(3), Identity((4,)), torch.ones(1)), "must have the basis's sizes"),
        (lambda: isotropic((4,), -1.0), "not negative"),
        (lambda: eof(torch.randn(5, 9), 5), "rank must be between 1 and 4"),
        (lambda: SphericalHarmonics(8, 16, 9), "lmax must be between 1 and min"),
        (lambda: SphericalHarmonics(8, 16, 4, latitudes=[0.0]), "1 latitudes for nlat = 8"),
    ],
)
def test_bad_references_are_refused_with_words(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
