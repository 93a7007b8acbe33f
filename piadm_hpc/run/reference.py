"""`piadm reference`: what sweeps are built on, from the network itself, from a pilot run, or from data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..config.run import RunConfig
from ..gaussian.reference import from_fields
from ..models.card import RESPONSE, load_model
from ..models.packing import save_response
from ..models.registry import find_model
from ..models.target import states_like
from ..schema.layout import Coordinate
from ..store.arrays import write_arrays
from ..theory.process import PSLD, Tabulated
from .build import make_sampler, projection_of
from .probe import probe_response, probe_smoothness

NODES = 40  # at which flows are looked at


def probe_trained(folder: str | Path) -> None:
    """Probe a model that has just been trained, unless it has no network or moves position and momentum."""
    model = load_model(folder)
    trained = model.denoiser is not None and model.denoiser.network is not None
    if trained and not isinstance(model.process, PSLD):
        probe_model(folder)


def probe_model(
    folder: str | Path,
    *,
    samples: int = 8,
    probes: int = 2,
    levels: int = 24,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "cpu",
    allow_code: bool = False,
) -> Path:
    """Probe a model at `samples` samples of a short pilot run and write its response; returns the file.

    Without `out` it goes into the model's folder, where every later run finds it. `allow_code` is that of `load_model`. Raises
    ValueError for what the model, the pilot run or the folder do not allow.
    """
    model = load_model(folder, device, allow_code=allow_code)
    if isinstance(model.process, PSLD):
        raise ValueError(
            f"model {model.name!r} was trained on position and momentum, and probes move the position alone; "
            "its sweeps use the Gaussian"
        )
    pilot = make_sampler(RunConfig(model=str(folder), samples=samples, seed=seed), model, device).draw(range(samples)).x
    # pilot samples carry the noise of early stopping, as the states of any run do
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
    )
    if not (isinstance(model.process, Tabulated) and model.process.whole):
        flow = {"chain": {"integrator": "collocation"}, "grid": {"steps": NODES}, "solver": {"tol": 1e-3}}
        flows = make_sampler(RunConfig.model_validate({"model": str(folder), "seed": seed, **flow}), model, device)
        response = replace(response, smoothness=probe_smoothness(flows, range(samples)))
    path = find_model(folder) / RESPONSE if out is None else Path(out)
    return save_response(path, response, f"mean response of {model.name}, {probes} probes at {samples} pilot samples")


def refit(folder: str | Path, data: str | Path, out: str | Path, *, allow_code: bool = False) -> Path:
    """Fit a reference in the model's own basis to the fields of a file, or of a run's samples.h5; returns the file written.

    Raises ValueError for a file whose fields cannot be made like the model's, or that has fewer than three of them.
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
