"""Log-densities of a run's samples in the units of the stored fields, as columns of its files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..models.volume import log_volume
from ..solvers.solution import Solution
from .resolve import ResolvedRun


def density_columns(resolved: ResolvedRun, samples: Sequence[int], solution: Solution) -> dict[str, np.ndarray]:
    """Return log_density, log_density_error and log_density_variance [samples]; empty if they were not requested."""
    log_det = solution.log_det
    if log_det is None:
        return {}
    states = resolved.sampler.log_density(samples, solution)
    fields = states - log_volume(resolved.model, solution.x)
    columns = {"log_density": fields, "log_density_error": log_det.error, "log_density_variance": log_det.variance}
    return {name: values.numpy() for name, values in columns.items()}
