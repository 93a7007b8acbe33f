"""`piadm reference`: what sweeps are built on, from the network itself, from a pilot run, or from data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..config.run import RunConfig
from ..data.reading import open_fields
from ..gaussian.reference import from_fields
from ..models.card import RESPONSE, Model, load_model
from ..models.packing import save_response
from ..models.registry import find_model
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
    """A reference in the model's own basis from the fields of a file, or of a run's samples.h5; returns the file written.

    Raises ValueError for a file that lacks the model's variables on its grid, or has fewer than three fields.
    """
    model = load_model(folder, allow_code=allow_code)
    states = _states(model, Path(data))
    if len(states) < 3:
        raise ValueError(f"{data}: {len(states)} field(s); a mean and variances need at least three")
    fitted = from_fields(states.to(torch.float64), model.reference.basis)
    arrays = {
        "mean": Coordinate(("state",), fitted.mean.numpy(), {"long_name": "mean state"}),
        "spectrum": Coordinate(("shell",), fitted.spectrum.numpy(), {"long_name": "variance per shell of the model's basis"}),
    }
    write_arrays(Path(out), arrays, {"title": f"reference of {Path(data).name} in the basis of {model.name}"})
    return Path(out)


def _states(model: Model, path: Path) -> Tensor:
    """Fields of a file on the model's grid, as states [n, *event]."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    fields = {}
    try:
        with open_fields(path) as dataset:
            for variable in model.layout.variables:
                grid = {dim: model.layout.coordinates[dim].values for dim in variable.dims}
                chosen = dataset[variable.name].sel(grid, method="nearest", tolerance=1e-3)
                others = [dim for dim in chosen.dims if dim not in variable.dims]
                stacked = chosen.stack(all_samples=others) if others else chosen.expand_dims("all_samples")
                fields[variable.name] = stacked.transpose("all_samples", *variable.dims).values
    except (KeyError, ValueError, OSError) as error:
        wanted = ", ".join(variable.name for variable in model.layout.variables)
        cause = error.args[0] if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: {cause}; {model.name} needs {wanted} on its own grid") from None
    return model.encode(fields)
