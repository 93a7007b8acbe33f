"""References for sweeps: the Jacobian diagonal of a network probed by Hutchinson's estimator, and Gaussians fitted to data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..config.run import RunConfig
from ..gaussian.reference import GaussianReference, Response, Smoothness, from_fields
from ..models.base import ScoreModel
from ..models.card import RESPONSE, load_model
from ..models.packing import save_response
from ..models.registry import find_model
from ..models.target import states_like
from ..schema.conditions import Condition, rows_of
from ..schema.layout import Coordinate
from ..solvers.collocation import Collocation
from ..solvers.sampler import Sampler
from ..solvers.solve import Projection
from ..solvers.whitening import Whitening
from ..store.arrays import write_arrays
from ..theory.process import Process, Tabulated, forward_time
from ..theory.stretch import UNSTRETCHED
from .build import make_collocation, projection_of
from .resolve import resolve

STEP = 0.05  # size of a probe in units of the noise: far below the scale on which the score varies, far above rounding
PROBED_ROWS = 5_000  # rows of the network that probing takes, about: the pilot, the probes at all levels, and the flows
NODES = 40  # number of flows whose variation along time is measured


def probe_trained(folder: str | Path) -> None:
    """Probe a model that has just been trained, unless it has no network, one of position and momentum, or a condition."""
    model = load_model(folder)
    trained = model.denoiser is not None and model.denoiser.network is not None
    if trained and model.process.fields == 1 and model.conditioning is None:
        probe_model(folder)


def probe_model(
    folder: str | Path,
    *,
    samples: int = 8,
    probes: int = 2,
    levels: int = 24,
    seed: int = 0,
    condition: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    allow_code: bool = False,
) -> Path:
    """Probe a model at `samples` samples of a short pilot run and write its response; returns the file.

    Without `out` it goes into the model's folder, where every later run finds it. `allow_code` is that of `load_model`. A
    conditional model is probed under the conditions of the file `condition`, in turn. Raises ValueError if the model, the pilot
    run or the folder do not allow it.
    """
    model = load_model(folder, device, allow_code=allow_code)
    if model.process.fields > 1:
        raise ValueError(
            f"model {model.name!r} was trained on position and momentum, and probes move the position alone; "
            "its sweeps use the Gaussian"
        )
    base = {"model": str(folder), "seed": seed, "condition": {"file": None if condition is None else str(condition)}}
    run = resolve(RunConfig.model_validate({**base, "samples": samples}), model, device)
    pilot = run.sampler.draw(range(samples), condition=run.condition_of(range(samples))).x
    # the samples still carry the noise of early stopping, like the states of any run
    response = probe_response(
        model.score,
        model.process,
        model.reference,
        pilot,
        horizon=model.horizon,
        delta=model.delta,
        levels=levels,
        probes=probes,
        seed=seed,
        project=projection_of(model, device),
        condition=run.condition_of(range(samples)),
    )
    if not (isinstance(model.process, Tabulated) and model.process.whole):
        flow = {"chain": {"integrator": "collocation"}, "grid": {"steps": NODES}, "solver": {"tol": 1e-3}}
        flows = resolve(RunConfig.model_validate({**base, **flow}), model, device)
        scheme = replace(make_collocation(flows.config, flows.model, flows.grid, flows.reference), stretch=UNSTRETCHED)
        given = flows.condition_of(range(samples))
        response = replace(response, smoothness=probe_smoothness(flows.sampler, scheme, range(samples), given))
    path = find_model(folder) / RESPONSE if out is None else Path(out)
    return save_response(path, response, f"mean response of {model.name}, {probes} probes at {samples} pilot samples")


def refit(folder: str | Path, data: str | Path, out: str | Path, *, allow_code: bool = False) -> Path:
    """Fit a reference in the model's own basis to the fields of a file, or of a run's samples.h5; returns the file written.

    Raises ValueError for a file whose fields cannot be converted to the model's form, or that has fewer than three of them.
    """
    model = load_model(folder, allow_code=allow_code)
    states = states_like(find_model(folder), model, data)
    if len(states) < 3:
        raise ValueError(f"{data}: {len(states)} field(s); a mean and variances need at least three")
    fitted = from_fields(states.to(torch.float64), model.reference.basis)
    arrays = {
        "mean": Coordinate(("state",), fitted.mean.numpy(), {"long_name": "mean state"}),
        "spectrum": Coordinate(("shell",), fitted.spectrum.numpy(), {"long_name": "variance per shell of the model's basis"}),
    }
    write_arrays(Path(out), arrays, {"title": f"reference of {Path(data).name} in the basis of {model.name}"})
    return Path(out)


@torch.no_grad()
def probe_response(
    score: ScoreModel,
    process: Process,
    reference: GaussianReference,
    states: Tensor,
    *,
    horizon: float,
    delta: float,
    levels: int = 24,
    probes: int = 2,
    seed: int = 0,
    model_batch: int = 16,
    project: Projection | None = None,
    condition: Condition | None = None,
) -> Response:
    """Probe a score at noised `states` [n, *event] between times `horizon` and `delta`, in the reference's basis.

    Hutchinson's estimate of the mean diagonal per shell: E[w . J w] over random signs w of the coordinates, by central
    differences, so that any score will do. Costs 2 n probes levels rows of the network. Adjacent levels are averaged.
    `project` maps states to the model's subspace, in which noise and probes stay; `condition` is that of a conditional score,
    with an entry for every state.
    """
    ends = torch.tensor([horizon, delta], dtype=torch.float64)
    low, high = (float(x) for x in -torch.log(torch.expm1(forward_time(process, ends))))
    snr = torch.linspace(low, high, levels, dtype=torch.float64)
    times = process.time(torch.log1p(torch.exp(-snr)))
    local = reference.to(states.device, states.dtype)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for t in times:
        total = torch.zeros(reference.basis.num_shells, dtype=torch.float64)
        for _ in range(probes):
            total += _response(score, process, local, states, t, generator, model_batch, project, condition) / probes
        rows.append(total)
    gain = torch.stack(rows)
    smooth = gain.clone()
    smooth[1:-1] = (gain[:-2] + 2 * gain[1:-1] + gain[2:]) / 4
    return Response(snr, smooth.clamp(0, 1))


def _response(
    score: ScoreModel,
    process: Process,
    reference: GaussianReference,
    states: Tensor,
    t: Tensor,
    generator: torch.Generator,
    model_batch: int,
    project: Projection | None,
    condition: Condition | None,
) -> Tensor:
    """One probe at time t: the mean of 1 + sigma^2 w . J w per shell, [num_shells], over random signs w."""
    basis, shape = reference.basis, states.shape
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    white = torch.randn(shape, generator=generator, dtype=torch.float64).to(states)
    white = white if project is None else project(white)
    x = alpha * states + sigma * white
    signs = torch.randint(0, 2, (len(states), basis.num_coords), generator=generator).to(states) * 2 - 1
    direction = basis.synthesise(signs).reshape(shape)
    direction = direction if project is None else project(direction)
    step = STEP * sigma
    change = torch.zeros_like(x)
    for sign in (1, -1):
        for start in range(0, len(x), model_batch):
            here = slice(start, start + model_batch)
            part = x[here] + sign * step * direction[here]
            given = () if condition is None else (rows_of(condition, here),)
            change[here] += sign * score(part, t.to(x).repeat(len(part)), *given).to(x)
    answer = basis.analyse(change.flatten(1)) * (sigma**2 / (2 * step))
    # shells of a basis that does not span the space receive only their share of a probe
    asked = basis.analyse(direction.flatten(1))
    return 1 + _inner(reference, asked, answer) / _inner(reference, asked, asked).clamp(min=1e-12)


def _inner(reference: GaussianReference, u: Tensor, v: Tensor) -> Tensor:
    """Mean product of coordinates u, v [n, num_coords] per shell, [num_shells] float64: (|u + v|^2 - |u - v|^2) / 4."""
    u, v = u.to(torch.float64), v.to(torch.float64)
    energy = reference.basis.to(u.device, torch.float64).energy
    return ((energy(u + v) - energy(u - v)) / 4).cpu()


def probe_smoothness(
    sampler: Sampler, scheme: Collocation, samples: Sequence[int], condition: Condition | None = None
) -> Smoothness:
    """Measure how the remainder of the Gaussian varies along the flow, on the flows of `samples` (`resolution.choose`).

    The sampler gives score, prior and options; the flows are those of `scheme`, under a `condition` with an entry for each.
    """
    noted = _Noted(sampler.score)
    piece, reference = scheme.piece(*scheme.span), scheme.reference.to(sampler.device, sampler.dtype)
    whitening, scale = Whitening.of(scheme, reference.mean), sampler.options.scale
    scale = scale.to(reference.mean).flatten() if isinstance(scale, torch.Tensor) else scale
    gram = torch.zeros(scheme.points, scheme.points, dtype=torch.float64)
    for number, sample in enumerate(samples):
        own = None if condition is None else rows_of(condition, slice(number, number + 1))
        replace(sampler, chain=scheme, score=noted).draw([sample], condition=own)
        rows = [noted.rows[float(t)] for t in piece.t.to(sampler.dtype)]
        x, score = (torch.stack(found).flatten(1) for found in zip(*rows, strict=True))
        moved = whitening.moved(scheme.remainder(piece, reference, x, score), scale).to(torch.float64).cpu()
        gram += moved @ moved.T / moved.shape[1] / len(samples)
    return Smoothness(*scheme.span, gram)


class _Noted:
    """A score that records the state and the score of its last row at every time."""

    def __init__(self, score: ScoreModel):
        self.score, self.rows = score, dict[float, tuple[Tensor, Tensor]]()

    def __call__(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        times, states = t.tolist(), x.clone()
        score = self.score(x, t, *condition)
        self.rows.update(zip(times, zip(states, score.clone(), strict=True), strict=True))
        return score
