"""`piadm weigh`: importance weights of a run's samples towards a Boltzmann distribution, stored beside them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...config.limits import MOST_SAMPLES
from ...data.energies import FORCE_FIELD, TEMPERATURE, energy_of
from ...data.turns import log_turns
from ...models.card import load_model
from ...models.model import Model
from ...schema.layout import Coordinate
from ...schema.topology import Topology
from ...store.arrays import read_arrays, write_arrays
from ...store.reading import open_run
from ..pages import number
from ..report.report import run_model, stored_config
from ..report.tables import table
from .averages import averages_lines, read_averages, tilt
from .checking import checked_energy
from .importance import Importance, bootstrap, normalised, resampled
from .posterior import posterior_energies

WEIGHTS = "weights.h5"


def weigh(
    run: str | os.PathLike[str],
    *,
    energy: str | None = None,
    temperature: float = TEMPERATURE,
    force_field: Sequence[str] = FORCE_FIELD,
    averages: str | os.PathLike[str] | None = None,
    theta: float = 1.0,
    resample: int | None = None,
    smooth: bool = False,
    allow_code: bool = False,
) -> str:
    """Weigh the samples of a run, write weights.h5 into its folder, and return the table to print.

    log w = -U/kT - log q, less half the variance of log q due to random probes, plus the volume of rotated copies for superposed
    conformers. `energy` is "openmm", "lennard-jones" or "module:callable"; `temperature` in K and `force_field` are
    for OpenMM. Without an energy the samples must be conditioned on observations, and are weighted towards the posterior: -U/kT
    is then log p(y | x) + log p(x), with the density p of the model without observations. `averages` is a table of averages over
    all conformers; weights of maximum entropy reproduce them, see `averages.tilt`: with an energy they start from its weights,
    and otherwise from equal weights, for which samples need no densities. `resample` also stores how often each sample occurs
    among so many equally weighted ones. `smooth` stores weights whose tail is smoothed (PSIS), which biases averages a little.
    Raises ValueError for a run without log-densities, unless `averages` are given alone.
    """
    folder = Path(run)
    if resample is not None and not 1 <= resample <= MOST_SAMPLES:
        raise ValueError(f"--resample {resample}: give a number of samples, at least 1 and at most {MOST_SAMPLES}")
    for name, given, unit in (("temperature", temperature, ", in K"), ("theta", theta, "")):
        if not 0 < given < math.inf:
            raise ValueError(f"--{name} {given}: give a {name} above zero{unit}")
    reduced, tilted, measured = None, None, None
    with open_run(folder) as dataset:
        ids = dataset[str(dataset.attrs["sample_dim"])].values.astype(np.int64)
        _require_one_condition(folder, dataset, energy or averages)
        logs = np.zeros(len(ids))
        if energy is not None or averages is None:
            reduced, logs = _importance(folder, dataset, energy, temperature, force_field, allow_code=allow_code)
        if averages is not None:
            measured = read_averages(averages, _positions(folder, dataset))
            tilted = tilt(measured, logs, theta)
        not_converged = int((dataset["converged"].values == 0).sum())
    found = Importance.of(logs if tilted is None else tilted.log_weight)
    stored = found.smoothed if smooth else found.log_weight
    columns = {"log_weight": stored} | ({} if reduced is None else {"reduced_energy": reduced})
    if resample is not None:
        columns["copies"] = resampled(stored, resample)
    target = folder if folder.is_dir() else folder.parent
    attributes = {
        "energy": energy or ("posterior" if averages is None else "none"),
        "averages": "none" if averages is None else Path(averages).name,
        "effective_share": f"{found.effective:.6g}",
        "pareto_shape": f"{found.shape:.6g}",
        "log_mean_weight": f"{found.log_mean:.9g}",
        "smoothed": str(int(smooth)),
    }
    _write(target / WEIGHTS, ids, columns, attributes)
    shown = [] if measured is None or tilted is None else averages_lines(measured, tilted)
    return "\n".join([*_lines(found, stored, reduced, not_converged), *shown, f"weights: {target / WEIGHTS}"])


def _require_one_condition(folder: Path, dataset: xr.Dataset, target: object) -> None:
    if target is not None and "condition" in dataset.dims:
        count = dataset.sizes["condition"]
        raise ValueError(f"{folder}: its samples are given {count} conditions; weigh runs of one condition each")


def _importance(
    folder: Path, dataset: xr.Dataset, energy: str | None, temperature: float, force_field: Sequence[str], *, allow_code: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the reduced energies [n] of the samples, or of their posterior, and their raw log-weights [n]."""
    if "log_density" not in dataset:
        raise ValueError(f"{folder}: its samples have no log_density; draw them with `piadm sample --density`")
    model = load_model(run_model(folder, stored_config(folder, dataset)), allow_code=allow_code)
    if energy is None:
        reduced, variance = posterior_energies(folder, dataset, model)
        return reduced, _log_weights(dataset, model, reduced, turned=False) - variance / 2
    reduced = _energies(dataset, model, energy, temperature, force_field)
    return reduced, _log_weights(dataset, model, reduced, turned=True)


def _positions(folder: Path, dataset: xr.Dataset) -> np.ndarray:
    """Return the conformers of a run, [n, atoms, 3] in nm; ValueError for a run of anything else."""
    if "topology" not in dataset:
        raise ValueError(f"{folder}: --averages are of conformers, and its samples are fields; leave it out")
    return np.asarray(dataset["coordinates"].values, dtype=np.float64)


def stored_weights(folder: Path, ids: np.ndarray) -> tuple[np.ndarray, dict[str, str]] | None:
    """Return the log-weights of the samples `ids` from a run's folder with the attributes of their file; None without a file.

    Raises ValueError for a file that was written for other samples.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        return None
    arrays, attributes = read_arrays(path)
    if "log_weight" not in arrays or not np.array_equal(arrays["sample"].values, ids):
        raise ValueError(f"{path}: does not hold the weights of these samples; run `piadm weigh` again, or delete the file")
    return arrays["log_weight"].values, attributes


def _energies(dataset: xr.Dataset, model: Model, name: str, temperature: float, force_field: Sequence[str]) -> np.ndarray:
    """Return the reduced energies [n] of the samples; ValueError for a function that fails or returns something else."""
    names = str(dataset.attrs["variables"]).split()
    fields = {variable: dataset[variable].values for variable in names}
    given: Any = fields[names[0]].astype(np.float64) if len(names) == 1 else fields
    topology: Topology | None = model.layout.topology
    energy = energy_of(name, topology, temperature=temperature, force_field=force_field)
    return checked_energy(name, energy)(given)


def _log_weights(dataset: xr.Dataset, model: Model, reduced: np.ndarray, *, turned: bool) -> np.ndarray:
    """Return the raw log-weights [n]; a sample whose energy is infinite or not a number has -inf.

    The energy is that of all conformers where they are `turned`, and else one of the superposed ones.
    """
    logs = -reduced - dataset["log_density"].values - dataset["log_density_variance"].values / 2
    if turned and model.constraint is not None and model.constraint.shape[1] > 3:
        centre = np.asarray(model.normalisation.mean[0])  # type: ignore[union-attr]
        logs = logs + log_turns(dataset["coordinates"].values, centre)
    return np.where(np.isfinite(reduced), logs, -np.inf)


def _write(path: Path, ids: np.ndarray, columns: dict[str, np.ndarray], attributes: dict[str, str]) -> None:
    names = {
        "reduced_energy": "energy of the sample in kT",
        "log_weight": "logarithm of the importance weight of the sample, up to a constant",
        "copies": "how often the sample occurs among equally weighted ones",
    }
    arrays = {"sample": Coordinate(("sample",), ids, {"long_name": "number of the sample", "units": "1"})}
    arrays |= {
        name: Coordinate(("sample",), values, {"long_name": names[name], "units": "1"}) for name, values in columns.items()
    }
    write_arrays(path, arrays, {"title": "importance weights", **attributes})


def _lines(found: Importance, stored: np.ndarray, reduced: np.ndarray | None, not_converged: int) -> list[str]:
    """The table of diagnostics and of the mean energy, if it is known, without and with weights, and the warnings."""
    logs = stored[np.isfinite(stored)]
    rows = [
        ["samples", str(len(stored)), ""],
        ["of these excluded by the target", str(int((~np.isfinite(found.log_weight)).sum())), ""],
        ["effective share of the samples", number(found.effective), ""],
        ["k-hat of the tail of the weights", number(found.shape), ""],
        ["standard deviation of log-weights", number(float(np.std(logs))), ""],
        *([] if reduced is None else _energy_rows(found, stored, reduced)),
    ]
    notes = [f"warning: {text}" for text in found.warnings]
    if not_converged:
        notes.append(f"warning: {not_converged} samples did not converge by themselves; their densities carry larger errors")
    return [*table(("", "value", "+-"), rows), *notes]


def _energy_rows(found: Importance, stored: np.ndarray, reduced: np.ndarray) -> list[list[str]]:
    usable = np.isfinite(reduced)
    logs, values = stored[usable], reduced[usable]
    error = bootstrap(lambda times: _mean(values, logs, times), len(values))
    plain = values.std() / len(values) ** 0.5
    return [
        ["log of the mean weight", number(found.log_mean), ""],
        ["mean energy [kT], as drawn", number(float(values.mean())), number(float(plain))],
        ["mean energy [kT], weighted", number(float(_mean(values, logs, np.ones(len(values))))), number(float(error))],
    ]


def _mean(values: np.ndarray, logs: np.ndarray, times: np.ndarray) -> np.ndarray:
    weight = normalised(logs) * times
    return np.asarray((weight * values).sum() / weight.sum())
