"""The package as a library: tables per entry, references by their public names, times, and errors that name what is missing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import solve
from torch import Tensor

import piadm_hpc as piadm
from piadm_hpc.models.analytic import target_a
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.errors import ScoreError

F64 = torch.float64
STEPS, SIZE, SAMPLES = 20, 6, 3


def exponential(factor: Tensor) -> tuple[piadm.Chain, Tensor]:
    """The exponential integrator of an Ornstein-Uhlenbeck process with tables [J, d] scaled per entry, and its noise levels."""
    s = torch.linspace(3, 0.05, STEPS + 1, dtype=F64)
    w = (s[:-1] - s[1:])[:, None]
    tables = torch.exp(w / 2) * factor, 2 * torch.expm1(w / 2) * factor, torch.sqrt(torch.expm1(w)) * factor
    levels = torch.exp(-s / 2), torch.sqrt(-torch.expm1(-s))
    return piadm.Chain(*tables, s, *levels), torch.stack(levels)


def score(x: Tensor, t: Tensor) -> Tensor:
    return -x + 0.1 * torch.tanh(torch.roll(x, 1, -1))


def by_hand(chain: piadm.Chain, x: Tensor, noise: Tensor) -> Tensor:
    """Evaluate the chain by a loop over its tables."""
    assert chain.N is not None
    for j in range(chain.num_steps):
        P, Q, N = (table[j, :, 0, 0] for table in (chain.P, chain.Q, chain.N))
        x = P * x + Q * score(x, chain.t[j]) + N * noise[j]
    return x


FACTOR = torch.linspace(0.9, 1.1, SIZE, dtype=F64)


def draws() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(SAMPLES, SIZE, dtype=F64, generator=generator)
    return x0, torch.randn(STEPS, SAMPLES, SIZE, dtype=F64, generator=generator)


@pytest.mark.parametrize("reference", ["none", "isotropic", "pixelwise"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"linear": "process"},
        {"linear": "identity"},
        {"linear": "denoised"},
        {"linear": "process", "window": 6},
        {"solver": "sequential"},
        {"solver": "newton"},
        {"solver": "anderson"},
        {"solver": "paradigms"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "auto",
)
def test_tables_per_entry_need_no_basis(options: dict[str, Any], reference: str) -> None:
    """P, Q and N [J, d] suffice, with any linear part and with references that are diagonal in the entries."""
    chain, _ = exponential(FACTOR)
    x0, noise = draws()
    spectrum = torch.linspace(0.8, 1.2, SIZE, dtype=F64)
    given = {
        "none": None,
        "isotropic": piadm.isotropic((SIZE,)).to("cpu", F64),
        "pixelwise": piadm.GaussianReference(torch.ones(SIZE, dtype=F64), piadm.Pixelwise((SIZE,)), spectrum),
    }
    found = solve(chain, score, x0, noise=noise, tol=1e-10, reference=given[reference], **options)
    torch.testing.assert_close(found.x, by_hand(chain, x0, noise), rtol=0, atol=1e-8)
    assert bool(found.converged.all())


def test_tables_per_entry_act_on_fields() -> None:
    """States [2, 3] have tables [J, 6], whose entries are in the order of memory."""
    chain, _ = exponential(FACTOR)
    x0, noise = draws()

    def on_fields(x: Tensor, t: Tensor) -> Tensor:
        return score(x.flatten(1), t).reshape(x.shape)

    found = solve(chain, on_fields, x0.reshape(SAMPLES, 2, 3), noise=noise.reshape(STEPS, SAMPLES, 2, 3), tol=1e-10)
    torch.testing.assert_close(found.x.flatten(1), by_hand(chain, x0, noise), rtol=0, atol=1e-8)


def test_tables_per_entry_that_do_not_fit_are_refused() -> None:
    chain, _ = exponential(FACTOR)
    x0, noise = draws()
    with pytest.raises(ValueError, match=r"Q has 3 shells or entries, other tables 6"):
        piadm.Chain(chain.P, chain.Q[:, :3], chain.N, chain.t)
    with pytest.raises(ValueError, match=r"basis is for states \[6\], x0 has 5 entries"):
        solve(chain, score, x0[:, :5], noise=noise[..., :5])
    fitted = piadm.eof(torch.randn(20, SIZE, dtype=F64), 2)
    with pytest.raises(ValueError, match="must share one basis"):
        solve(chain, score, x0, noise=noise, reference=fitted)


@pytest.mark.parametrize("needs", [{"solver": "newton"}, {"linear": "denoised"}, {"solver": "parareal"}, {"reference": True}])
def test_what_needs_noise_levels_says_so(needs: dict[str, Any]) -> None:
    """A chain may lack alpha and sigma; schemes that need them raise an error that names both."""
    chain, _ = exponential(torch.ones(SIZE, dtype=F64))
    bare = piadm.Chain(chain.P, chain.Q, chain.N, chain.t)
    x0, noise = draws()
    needs = {"reference": piadm.isotropic((SIZE,)).to("cpu", F64)} if "reference" in needs else needs
    with pytest.raises(ValueError, match="alpha and sigma"):
        solve(bare, score, x0, noise=noise, tol=1e-8, **needs)
    torch.testing.assert_close(solve(bare, score, x0, noise=noise, tol=1e-10).x, by_hand(chain, x0, noise))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "solver", ["picard", "sequential", "paradigms", "anderson", "newton", "parareal", "chords", "collocation"]
)
def test_times_come_in_the_precision_of_the_states(dtype: torch.dtype, solver: Any) -> None:
    seen: set[tuple[torch.dtype, torch.dtype, int]] = set()

    def watched(x: Tensor, t: Tensor) -> Tensor:
        seen.add((x.dtype, t.dtype, len(x) - len(t)))
        return score(x, t)

    process, reference = piadm.OU(), piadm.isotropic((SIZE,))
    chain = piadm.integrators.ddpm(process, piadm.grid.log_snr(process, STEPS, horizon=6.0, delta=1e-2))
    options: dict[str, Any] = {"chain": chain, "options": piadm.Options(solver=solver)}
    if solver == "collocation":
        options = {"chain": Collocation(process, reference, 6.0, 1e-2, 12)}
    piadm.Sampler(score=watched, event_shape=(SIZE,), seed=0, reference=reference, dtype=dtype, **options).draw(range(2))
    assert seen == {(dtype, dtype, 0)}


def test_references_are_made_by_public_names() -> None:
    """In every public basis a mean and a spectrum are fitted to fields; the leading EOF is the strongest pattern."""
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(500, 8, 16, dtype=F64, generator=generator) * torch.linspace(1, 3, 16, dtype=F64)
    for basis, shells in (
        (piadm.Identity((8, 16)), 1),
        (piadm.Pixelwise((8, 16)), 128),
        (piadm.Fourier((8, 16)), piadm.Fourier((8, 16)).num_shells),
        (piadm.SphericalHarmonics(8, 16, 5), 6),
    ):
        reference = piadm.from_fields(fields, basis)
        assert reference.spectrum.shape == (shells,) and reference.mean.shape == (128,)
    assert float(piadm.from_fields(fields, piadm.Identity((8, 16))).spectrum) == pytest.approx(float(fields.var()), rel=0.01)
    fitted = piadm.eof(fields, 3)
    assert isinstance(fitted.basis, piadm.EOF) and float(fitted.spectrum[0]) > float(fitted.spectrum[-1])
    assert piadm.isotropic((8, 16), 4.0).spectrum.tolist() == [4.0]


def test_one_variance_helps_near_the_geometric_mean_of_the_spectrum() -> None:
    """This is the rule of docs/choosing.md: on a power law it halves the rounds, and variances far above it cost more."""
    target = target_a(piadm.OU(), 64)
    spectrum = target.reference().spectrum
    typical = float(spectrum.log().mean().exp())
    chain = piadm.integrators.ddpm(piadm.OU(), piadm.grid.log_snr(piadm.OU(), 48, horizon=8.0, delta=1e-3))

    def rounds(reference: piadm.GaussianReference | None) -> float:
        options = {"event_shape": (64,), "seed": 3, "prior": target.reference(), "dtype": F64}
        found = piadm.Sampler(chain, target.score, reference=reference, **options).draw(range(8))
        return float(found.rounds.to(F64).mean())

    none = rounds(None)
    assert rounds(piadm.isotropic((64,), typical)) < 0.6 * none
    assert rounds(piadm.isotropic((64,), 300 * typical)) > none
    assert math.isclose(float(spectrum.mean()), 1.0)


def test_a_score_that_answers_by_chance_or_by_its_batch_is_refused() -> None:
    """It is refused even if it has a generator of its own, and accepted if the check is disabled."""
    chain, _ = exponential(torch.ones(SIZE, dtype=F64))
    x0, noise = draws()
    own = torch.Generator().manual_seed(1)
    counts = list[int]()

    def by_chance(x: Tensor, t: Tensor) -> Tensor:
        return score(x, t) + 0.1 * torch.randn(x.shape, dtype=x.dtype, generator=own)

    def by_batch(x: Tensor, t: Tensor) -> Tensor:
        return score(x, t) - 0.3 * x.mean(0)

    def counted(x: Tensor, t: Tensor) -> Tensor:
        counts.append(len(x))
        return score(x, t)

    for solver in ("picard", "sequential"):
        for wrong, words in ((by_chance, "returns different results"), (by_batch, "depends on the other states")):
            with pytest.raises(ScoreError, match=words):
                piadm.solve(chain, wrong, x0, piadm.Options(solver=solver), noise=noise)
            unchecked = piadm.solve(chain, wrong, x0, piadm.Options(solver=solver, check_score=False), noise=noise)
            assert torch.isfinite(unchecked.x).all()
        calls, found = [], []
        for check in (False, True):
            counts.clear()
            found.append(piadm.solve(chain, counted, x0, piadm.Options(solver=solver, check_score=check), noise=noise).x)
            calls.append((len(counts), sum(counts)))
        assert torch.equal(*found) and calls[1] == (calls[0][0] + 1, calls[0][1] + 1)
