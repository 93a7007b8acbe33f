"""CF metadata: coordinates of the globe, the sample axis, and the cost of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..schema.layout import Coordinate

BLOCK = "block"
"""The dimension of quantities that are recorded once per block of steps."""

DIALECTS = {"earth2studio": "ensemble", "ecmwf": "number", "member": "member", "wb2": "realization"}
"""Names of the sample dimension in other tools."""


@dataclass(frozen=True)
class PerSample:
    """How a quantity per sample, or per sample and block, is stored."""

    dtype: str
    attrs: dict[str, Any] = field(default_factory=dict)


def _flag(long_name: str, no: str, yes: str) -> PerSample:
    values = np.array([0, 1], dtype="i1")
    return PerSample("i1", {"long_name": long_name, "flag_values": values, "flag_meanings": f"{no} {yes}"})


def _count(long_name: str, dtype: str = "i4") -> PerSample:
    return PerSample(dtype, {"long_name": long_name, "units": "1"})


PER_SAMPLE: dict[str, PerSample] = {
    "seed": _count("seed of the random numbers of the sample", "i8"),
    "member": _count("number of the sample among those of its condition, which selects its noise"),
    "condition_index": _count("position of the sample's condition in the file of conditions"),
    "sweeps": _count("parallel sweeps until the block was accepted"),
    "rounds": _count("sequential network calls needed by the sample"),
    "model_calls": _count("score evaluations spent on the sample"),
    "residual": _count("bound on the error of the end of the block in standard deviations of the data", "f4"),
    "converged": _flag("whether every block met the tolerance by itself", "not_converged", "converged"),
    "status": PerSample(
        "i1",
        {
            "long_name": "how the block ended",
            "flag_values": np.arange(6, dtype="i1"),
            "flag_meanings": "converged fixed_depth round_off_floor finished_sequentially not_resolved not_certified",
        },
    ),
    "sequential_steps": _count("steps of the block that were taken one after the other"),
    "valid": _flag("whether the decoded sample passed the checks of the model", "not_valid", "valid"),
    "seconds": PerSample("f4", {"long_name": "wall-clock time of the batch that the sample was drawn in", "units": "s"}),
    "potential_energy": PerSample("f4", {"long_name": "potential energy of the conformer", "units": "kJ mol-1"}),
    "log_weight": _count("logarithm of the importance weight of the sample", "f4"),
    "ancestor": _count("sample whose first state this one has, after resampling within its group"),
    "log_density": _count("logarithm of the probability density of the sample, per unit volume of the stored fields", "f8"),
    "log_density_error": _count("error bar of log_density: it covers the true value in 95 of 100 cases", "f8"),
    "log_density_variance": _count("variance of log_density that comes from random probes of traces", "f8"),
}
"""Quantities that may be stored beside the fields of a sample."""


def latitude(values: ArrayLike, *, dim: str = "lat") -> Coordinate:
    """Latitudes [degrees north] in the order of the model's rows; `dim` is "cell" on a mesh."""
    attrs = {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"}
    return _angle(values, dim, attrs | ({"axis": "Y"} if dim == "lat" else {}), limits=(-90.0, 90.0))


def longitude(values: ArrayLike, *, dim: str = "lon") -> Coordinate:
    """Longitudes [degrees east], from -180 or from 0; `dim` is "cell" on a mesh."""
    attrs = {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"}
    return _angle(values, dim, attrs | ({"axis": "X"} if dim == "lon" else {}), limits=(-360.0, 360.0))


def _angle(values: ArrayLike, dim: str, attrs: dict[str, Any], limits: tuple[float, float]) -> Coordinate:
    array = np.asarray(values, dtype=np.float64)
    low, high = limits
    if array.ndim != 1 or array.size == 0 or not np.all((array >= low) & (array <= high)):
        raise ValueError(
            f"{attrs['standard_name']}: got an array of shape {array.shape} with values from {np.min(array, initial=np.inf)} to "
            f"{np.max(array, initial=-np.inf)}; give one dimension of degrees between {low:g} and {high:g}"
        )
    return Coordinate((dim,), array, attrs)


def realization(samples: Sequence[int], *, dim: str = "realization") -> Coordinate:
    """The coordinate of the sample dimension: sample ids, which are global and never renumbered.

    It has no `axis` attribute, because CF defines only X, Y, Z and T.
    """
    attrs = {"long_name": "number of the sample", "units": "1"}
    if dim == "realization":
        attrs = {"standard_name": "realization", **attrs}
    return Coordinate((dim,), np.asarray(samples, dtype=np.int32), attrs)


def cell_weight(lat: ArrayLike, *, quadrature: ArrayLike | None = None, dim: str = "lat") -> Coordinate:
    """The share of the globe's area in each row of latitude, which sums to one: the weights of an area mean.

    `lat` [rows] is in degrees and monotonic. On a Gaussian grid give its `quadrature` weights [rows]; otherwise a row extends
    half way to its neighbours, and the outer rows to the poles. Raises ValueError when the rows are not in order.
    """
    rows = np.asarray(lat, dtype=np.float64)
    attrs = {"long_name": "share of the area of the globe in the row", "units": "1"}
    if quadrature is not None:
        weights = np.asarray(quadrature, dtype=np.float64)
        if weights.shape != rows.shape or not np.all(weights > 0):
            raise ValueError(f"quadrature: got shape {weights.shape}; give one positive weight for each of {rows.size} rows")
        return Coordinate((dim,), weights / weights.sum(), attrs)
    steps = np.diff(rows)
    if rows.ndim != 1 or rows.size == 0 or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(f"lat: got {rows.shape} values that do not rise or fall steadily; give them from pole to pole")
    first, last = (-90.0, 90.0) if rows.size == 1 or steps[0] > 0 else (90.0, -90.0)
    edges = np.concatenate([[first], (rows[1:] + rows[:-1]) / 2, [last]])
    weights = np.abs(np.diff(np.sin(np.deg2rad(edges))))
    return Coordinate((dim,), weights / weights.sum(), attrs)
