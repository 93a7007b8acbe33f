"""The energy of a posterior: samples conditioned on observations, weighted towards prior times likelihood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ...config.run import RunConfig
from ...gaussian.observed import LinearObservations
from ...models.model import Model
from ...models.observations.likelihood import log_likelihood
from ...run.resolve import resolve
from ..density import densities
from ..report.report import run_model, stored_config
from ..verify.fields import stacked
from ..verify.posterior import given_observations


def posterior_energies(folder: Path, dataset: xr.Dataset, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return -log p(y | x) - log p(x) of a run's samples, per unit volume of their fields, and the variance from probes, [n].

    The prior's density takes another solution of the model's flow for every sample, without observations, to the same last time.
    Raises ValueError for a run without linear observations.
    """
    config = stored_config(folder, dataset)
    if config.observations is None:
        raise ValueError(f"{folder}: was drawn without observations, so its weights need an energy; give --energy")
    observations, _ = given_observations(folder, model, config.observations, run_model(folder, config))
    if not isinstance(observations, LinearObservations):
        raise ValueError(
            f"{folder}: its observations are no linear function of its fields, and such a posterior has no densities"
        )
    settings = config.compute.model_dump(include={"precision", "model_batch"})
    prior = RunConfig(
        model=config.model,
        density=config.density,
        solver={"tol": config.solver.tol},
        grid={"delta": config.grid.delta},
        compute=settings,
    )
    x = model.encode({v.name: np.nan_to_num(stacked(dataset, v)) for v in model.layout.variables})
    found = densities(resolve(prior, model), x)
    likelihood = log_likelihood(observations, x.flatten(1).to(torch.float64)).numpy()
    return -likelihood - found.log_density, found.variance
