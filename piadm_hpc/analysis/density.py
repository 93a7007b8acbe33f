"""`piadm density`: log-densities of given fields under a model, maps of surprise, and an anomaly score for each field."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.run import RunConfig
from ..gaussian.density import degrees_within, log_density
from ..models.card import load_model
from ..models.model import Model
from ..models.registry import find_model
from ..models.target import states_like
from ..models.volume import log_volume, num_directions
from ..run.resolve import resolve
from ..schema.layout import Coordinate
from ..solvers.encode import Encoded, encode
from ..solvers.sampler import Sampler
from ..store.arrays import write_arrays
from .pages import number
from .report.tables import table

MOST_SHOWN = 12  # fields in the printed table


@dataclass(frozen=True)
class Densities:
    """Fields under a model, in the order of their file.

    Attributes:
        log_density: logarithms of their densities per unit volume of the fields in physical units, [n].
        error: error bars on them, [n].
        gaussian: the same under the model's Gaussian reference alone, [n].
        anomaly: how far the squared norm of the encoded noise is from its mean, in standard deviations, [n].
        surprise: squared encoded noise at every point, one on average, [n, *event].
        directions: number of directions that a state has.
    """

    log_density: np.ndarray
    error: np.ndarray
    gaussian: np.ndarray
    anomaly: np.ndarray
    surprise: np.ndarray
    directions: int

    @property
    def bits(self) -> np.ndarray:
        """Bits per dimension, -log2 of the density over the number of directions, [n]."""
        return -self.log_density / (math.log(2) * self.directions)

    @property
    def gaussian_bits(self) -> np.ndarray:
        """Bits per dimension under the Gaussian reference alone, [n]."""
        return -self.gaussian / (math.log(2) * self.directions)


def densities(
    model: Model, x: Tensor, *, tol: float = 1e-2, traces: str | int = "auto", batch: int = 4, device: str = "cpu",
    model_batch: int = 16,
) -> Densities:  # fmt: skip
    """Compute the densities of states x [n, *event] of a model, `batch` of them at a time.

    Raises ValueError for a model whose flow cannot be solved by collocation, and ScoreError when its network fails.
    """
    config = RunConfig(
        model=model.name, density={"enabled": True, "traces": traces}, solver={"tol": tol}, compute={"model_batch": model_batch}
    )
    sampler = resolve(config, model, device).sampler
    parts = []
    for start in range(0, len(x), batch):
        rows = range(start, min(len(x), start + batch))
        states = x[rows.start : rows.stop]
        parts.append(_of_batch(model, sampler, states, encode(sampler, states, samples=rows)))
    first, error, alone, anomaly, surprise = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Densities(first, error, alone, anomaly, surprise, num_directions(model))


def _of_batch(model: Model, sampler: Sampler, x: Tensor, encoded: Encoded) -> tuple[np.ndarray, ...]:
    """Log-density, error, Gaussian's log-density, anomaly [n], and surprise [n, *event] of some states."""
    assert encoded.log_density is not None and encoded.solution.log_det is not None
    volume = log_volume(model, x)
    projected = None if sampler.project is None else sampler.projected
    degrees = degrees_within(sampler.measure.basis, projected, sampler.measure.mean)
    last = sampler.chain.t[-1]
    states = x.to(sampler.device, sampler.dtype)
    alone = log_density(sampler.measure, model.process, states, last, degrees=degrees, project=sampler.projected)
    surprise = encoded.white.cpu().to(torch.float64) ** 2
    count = float(degrees.sum())
    anomaly = (surprise.flatten(1).sum(1) - count) / math.sqrt(2 * count)
    columns = (encoded.log_density - volume, encoded.solution.log_det.error, alone - volume, anomaly, surprise.float())
    return tuple(column.numpy() for column in columns)


def density(
    name: str, data: str | os.PathLike[str], *, out: str | os.PathLike[str] = "density.h5", tol: float = 1e-2,
    traces: str | int = "auto", batch: int = 4, device: str = "cpu", model_batch: int = 16, allow_code: bool = False,
) -> str:  # fmt: skip
    """Compute densities of the fields of a file under a model, write them with maps of surprise, and return the table to print.

    Raises ValueError for a model of conformers and for fields that are not the model's.
    """
    folder = find_model(name)
    model = load_model(folder, device=device, allow_code=allow_code)
    if model.layout.topology is not None:
        raise ValueError(
            f"{name}: makes conformers, and fields are asked for; `piadm sample --density` gives densities of samples"
        )
    if model.conditioning is not None:
        raise ValueError(f"{name}: is a conditional model; give its condition to piadm_hpc.encode, which the command cannot")
    states = states_like(folder, model, Path(data))
    found = densities(model, states, tol=tol, traces=traces, batch=batch, device=device, model_batch=model_batch)
    _write(Path(out), model, found, str(data))
    return "\n".join([*_lines(found), f"densities and maps of surprise: {out}"])


def _write(path: Path, model: Model, found: Densities, data: str) -> None:
    names = [variable.name for variable in model.layout.variables]
    dims = model.layout.variables[0].dims
    columns = {
        "log_density": (found.log_density, "logarithm of the probability density, per unit volume of the fields"),
        "log_density_error": (found.error, "error bar of log_density: it holds the truth in 95 of 100 cases"),
        "log_density_gaussian": (found.gaussian, "log_density under the Gaussian reference alone"),
        "bits_per_dimension": (found.bits, "-log2 of the density over the number of dimensions"),
        "anomaly": (found.anomaly, "squared norm of the encoded noise, in standard deviations from its mean"),
    }
    arrays = {dim: model.layout.coordinates[dim] for dim in dims}
    arrays["sample"] = Coordinate(("sample",), np.arange(len(found.bits)), {"long_name": "number of the field in the file"})
    for key, (values, meaning) in columns.items():
        arrays[key] = Coordinate(("sample",), values, {"long_name": meaning, "units": "1"})
    maps = found.surprise.reshape(len(found.bits), len(names), *(len(arrays[dim].values) for dim in dims))
    for k, variable in enumerate(names):
        about = {"long_name": f"squared encoded noise of {variable}, one on average", "units": "1"}
        arrays[f"surprise_{variable}"] = Coordinate(("sample", *dims), maps[:, k], about)
    write_arrays(path, arrays, {"title": f"densities under {model.name}", "source": data})


def _lines(found: Densities) -> list[str]:
    """The table of fields, the least likely first, and the means over all of them."""
    order = np.argsort(-found.bits)
    to_bits = 1 / (math.log(2) * found.directions)
    rows = [
        [str(k), *(number(float(v)) for v in (found.bits[k], found.error[k] * to_bits, found.gaussian_bits[k], found.anomaly[k]))]
        for k in order[:MOST_SHOWN]
    ]
    means = [number(float(np.mean(v))) for v in (found.bits, found.error * to_bits, found.gaussian_bits, found.anomaly)]
    head = ("field", "bits per dimension", "+-", "Gaussian alone", "anomaly [sd]")
    more = [] if len(order) <= MOST_SHOWN else [f"the {MOST_SHOWN} least likely of {len(order)} fields; all are in the file"]
    return [*table(head, [*rows, ["mean", *means]]), *more]
