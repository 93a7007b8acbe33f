"""`piadm density`: log-densities of given fields under a model, maps of surprise, and an anomaly score for each field."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..comm.failure import together
from ..comm.rank_grid import RankGrid, rank_grid
from ..config.limits import MOST_SAMPLES
from ..config.run import RunConfig
from ..config.validation import ConfigError, build
from ..gaussian.density import degrees_within, log_density
from ..models.model import Model
from ..models.registry import find_model
from ..models.target import fields_like
from ..models.volume import log_volume, num_directions
from ..run.execute import load, threads
from ..run.resolve import ResolvedRun, count_time_ranks
from ..schema.conditions import matched
from ..schema.layout import Coordinate
from ..solvers.encode import encode
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
        variance: the part of the errors that comes from random probes, as variances, [n].
        gaussian: the same under the model's Gaussian reference alone, [n].
        anomaly: how far the squared norm of the encoded noise is from its mean, in standard deviations, [n].
        surprise: squared encoded noise at every point, one on average, [n, *event].
        directions: number of degrees of freedom of a state.
    """

    log_density: np.ndarray
    error: np.ndarray
    variance: np.ndarray
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


def densities(resolved: ResolvedRun, x: Tensor, *, batch: int = 4, ranks: RankGrid | None = None) -> Densities:
    """Compute the densities of states x [n, *event] of a run's model, `batch` of them at a time; collective over `ranks`.

    Sample groups share the states, and time ranks the nodes of each. State k is given condition k of the run, or the only one.
    Raises ValueError for a model whose flow cannot be solved by collocation, and ScoreError when its network fails.
    """
    ranks = ranks or RankGrid.serial()
    size = max(1, min(batch, -(-len(x) // ranks.num_groups)))
    batches = [range(start, min(len(x), start + size)) for start in range(0, len(x), size)]
    own = batches[ranks.group :: ranks.num_groups]
    mine = together(ranks.world, lambda: [(rows.start, _of_batch(resolved, x, rows, ranks)) for rows in own])
    groups = ranks.world.gather_objects(mine)[:: ranks.time.size]
    parts = [part for _, part in sorted((item for group in groups for item in group), key=lambda item: item[0])]
    first, error, variance, alone, anomaly, surprise = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Densities(first, error, variance, alone, anomaly, surprise, num_directions(resolved.model))


def _of_batch(resolved: ResolvedRun, everything: Tensor, rows: range, ranks: RankGrid) -> tuple[np.ndarray, ...]:
    """The columns of `Densities` of some states."""
    model, sampler, x = resolved.model, resolved.sampler, everything[rows.start : rows.stop]
    encoded = encode(sampler, x, condition=resolved.condition_of(rows), samples=rows, comm=ranks.time)
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
    log_det = encoded.solution.log_det
    columns = (encoded.log_density - volume, log_det.error, log_det.variance, alone - volume, anomaly, surprise.float())
    return tuple(column.numpy() for column in columns)


def density(
    name: str, data: str | os.PathLike[str], *, condition: str | None = None, out: str | os.PathLike[str] = "density.h5",
    tol: float = 1e-2, traces: str | int = "auto", batch: int = 4, time_ranks: int | str = "auto", device: str = "auto",
    model_batch: int = 16, allow_code: bool = False,
) -> str:  # fmt: skip
    """Compute densities of the fields of a file under a model, write them with maps of surprise, and return the table to print.

    Collective over the ranks of the launch. A conditional model takes a file `condition` with one condition, or with one for
    every field. Raises ConfigError for impossible numbers, and ValueError for a model of conformers, for fields that do not fit
    the model, and for a file `out` that cannot be written.
    """
    if not 1 <= batch <= MOST_SAMPLES:
        raise ConfigError(f"--batch {batch}: give a number of fields from 1 to {MOST_SAMPLES}")
    given = {
        "model": name,
        "density": {"enabled": True, "traces": traces},
        "solver": {"tol": tol},
        "condition": {"file": condition},
        "compute": {"model_batch": model_batch, "device": device, "time_ranks": time_ranks},
        "allow_code": allow_code,
    }
    config = build(RunConfig, given, "the command line")
    if not Path(out).name or Path(out).is_dir() or not Path(out).absolute().parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: give the name of a file to write, in a folder that exists")
    torch.set_num_threads(threads(config))
    world = rank_grid().world
    resolved, states = together(world, partial(_read, config, Path(data)))
    ranks = rank_grid(count_time_ranks(resolved.config.replace(samples=len(states)), world.size))
    resolved.require_points(ranks.time.size)
    found = densities(resolved, states, batch=batch, ranks=ranks)
    together(world, lambda: _write(Path(out), resolved.model, found, str(data)) if ranks.root else None)
    return "\n".join([*_lines(found), f"densities and maps of surprise: {out}"])


def _read(config: RunConfig, data: Path) -> tuple[ResolvedRun, Tensor]:
    """Resolve the run that solves the flow, and read the fields as its states, given their conditions."""
    resolved = load(config)
    model = resolved.model
    if model.layout.topology is not None:
        raise ValueError(
            f"{config.model}: draws conformers, and fields are needed here; `piadm sample --density` gives densities of samples"
        )
    fields = fields_like(find_model(config.model), model, data)
    count, given = len(next(iter(fields.values()))), resolved.config.condition
    if resolved.condition is not None and given.count not in (1, count):
        raise ValueError(
            f"--condition {given.file}: has {given.count} conditions, and {data.name} has {count} fields; give one condition, "
            "or one for every field, in their order"
        )
    condition = resolved.condition_of(range(count))
    return resolved, model.encode(fields, None if condition is None else matched(condition, torch.zeros(())))


def _write(path: Path, model: Model, found: Densities, data: str) -> None:
    layout = model.layout
    columns = {
        "log_density": (found.log_density, "logarithm of the probability density, per unit volume of the fields"),
        "log_density_error": (found.error, "error bar of log_density: it covers the true value in 95 of 100 cases"),
        "log_density_gaussian": (found.gaussian, "log_density under the Gaussian reference alone"),
        "bits_per_dimension": (found.bits, "-log2 of the density over the number of dimensions"),
        "anomaly": (found.anomaly, "squared norm of the encoded noise, in standard deviations from its mean"),
    }
    arrays = {dim: layout.coordinates[dim] for variable in layout.variables for dim in variable.dims}
    arrays["sample"] = Coordinate(("sample",), np.arange(len(found.bits)), {"long_name": "number of the field in the file"})
    for key, (values, meaning) in columns.items():
        arrays[key] = Coordinate(("sample",), values, {"long_name": meaning, "units": "1"})
    ends = np.cumsum([math.prod(layout.shape(variable)) for variable in layout.variables])
    parts = np.split(found.surprise.reshape(len(found.bits), -1), ends[:-1], axis=1)
    for variable, part in zip(layout.variables, parts, strict=True):
        about = {"long_name": f"squared encoded noise of {variable.name}, one on average", "units": "1"}
        maps = part.reshape(len(part), *layout.shape(variable))
        arrays[f"surprise_{variable.name}"] = Coordinate(("sample", *variable.dims), maps, about)
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
