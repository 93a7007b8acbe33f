"""Weights that give an ensemble of conformers measured averages, and otherwise change it least (maximum entropy).

With start weights w0, measured averages y with errors s, and the observables f of every conformer, the weights are

    w = w0 exp(-sum_j lambda_j f_j) / Z,        lambda minimises  log Z + lambda y + theta/2 sum_j (lambda_j s_j)^2

which is convex. They minimise chi^2 / 2 + theta (relative entropy), chi^2 = sum_j (<f_j> - y_j)^2 / s_j^2 (Hummer and Koefinger
2015; Bottaro, Bengtsen and Lindorff-Larsen 2020).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from ...data.observations import ObservationTable, read_observations
from ...models.observations.geometry import geometry_of
from ..pages import number
from ..report.tables import table
from .importance import normalised

POWERS = {"r-6": -6.0, "r-3": -3.0, "mean": 1.0}
"""What is averaged of a quantity: its power, by the word in the column `average`."""

FAR = 5.0  # errors between a measured average and the nearest conformer, above which no weights can give it


@dataclass(frozen=True)
class Averages:
    """Measured averages: observables [n, m] of all conformers, and for each its average `measured` [m] with errors `std` [m].

    Quantities r that are averaged as r^power have these powers here; `labels` [m] name them, and `power` [m] leads back.
    """

    observables: np.ndarray
    measured: np.ndarray
    std: np.ndarray
    power: np.ndarray
    labels: np.ndarray

    def back(self, averages: np.ndarray) -> np.ndarray:
        """Return averages [m] as the quantities themselves: distances in nm, angles in degrees."""
        return np.asarray(averages ** (1 / self.power))


def read_averages(path: str | os.PathLike[str], positions: np.ndarray) -> Averages:
    """Read a table of averages and observe conformers [n, atoms, 3] in nm.

    A row has two or three atoms, a value and its std, as an observation of one conformer. Its column `average` says how: "r-6",
    the default of distances, as of nuclear Overhauser effects between conformers that exchange more slowly than the molecule
    tumbles, "r-3" where they exchange faster (Tropp 1980), or "mean", the default of angles. Raises ValueError listing everything
    that does not fit.
    """
    rows = read_observations(Path(path), ["coordinates"], placed=False)
    try:
        geometry, values, std = geometry_of(rows, positions.shape[1])
        counts = np.array([len(groups) for groups in geometry.atoms])
        if (counts == 1).any():
            raise ValueError(f"positions have no average over conformers that turn: {rows.of_mistake(counts == 1)}")
        power = _powers(rows, counts)
        if ((values <= 0) & (power < 0)).any():
            raise ValueError(f"distances must be positive: {rows.of_mistake((values <= 0) & (power < 0))}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    observed = geometry(torch.from_numpy(positions.astype(np.float64))).numpy()
    measured = values**power
    return Averages(observed**power, measured, std * np.abs(power) * measured / values, power, rows.labels)


def _powers(rows: ObservationTable, counts: np.ndarray) -> np.ndarray:
    """The power [m] in which every row is averaged; ValueError for words that are unknown and powers of angles."""
    given = rows.columns.get("average", np.full(len(rows), ""))
    words = np.where(given == "", np.where(counts == 2, "r-6", "mean"), given)
    wrong = ~np.isin(words, list(POWERS)) | ((counts == 3) & (words != "mean"))
    if wrong.any():
        raise ValueError(f"average must be {', '.join(POWERS)}, and mean for angles: {rows.of_mistake(wrong)}")
    return np.array([POWERS[word] for word in words])


@dataclass(frozen=True)
class Tilted:
    """Log-weights [n], the averages [m] before and after, and the relative entropy of the change."""

    log_weight: np.ndarray
    before: np.ndarray
    after: np.ndarray
    entropy: float


def tilt(averages: Averages, start: np.ndarray, theta: float) -> Tilted:
    """Find the weights nearest to `start`, log-weights [n], that give the averages within their errors.

    `theta` weighs the change of the ensemble against chi^2. Raises ValueError for averages so far beyond all conformers that no
    weights give them, and where the minimum is not found.
    """
    usable = np.isfinite(start)
    f = (averages.observables[usable] - averages.measured) / averages.std
    beyond = np.maximum(f.min(0), -f.max(0))
    if (beyond > FAR).any():
        raise ValueError(
            f"averages: no conformer comes within {FAR:g} errors of {', '.join(map(str, averages.labels[beyond > FAR]))}; "
            "weights cannot make what was never sampled"
        )
    base = np.log(normalised(start[usable]))

    def logs(x: np.ndarray) -> np.ndarray:
        return np.asarray(base - f @ x)

    def value(x: np.ndarray) -> float:
        return float(logsumexp(logs(x)) + theta / 2 * (x**2).sum())

    def gradient(x: np.ndarray) -> np.ndarray:
        return np.asarray(theta * x - normalised(logs(x)) @ f)

    def curvature(x: np.ndarray) -> np.ndarray:
        weight = normalised(logs(x))
        apart = f - weight @ f
        return np.asarray((weight[:, None] * apart).T @ apart + theta * np.eye(len(x)))

    found = minimize(value, np.zeros(f.shape[1]), jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-8})
    if not np.abs(found.jac).max() < 1e-4:
        raise ValueError(f"averages: the weights do not converge ({found.message}); give a larger theta")
    log_weight = np.full(len(start), -np.inf)
    log_weight[usable] = logs(found.x)
    old, new = normalised(np.where(usable, start, -np.inf)), normalised(log_weight)
    entropy = float((new[usable] * (np.log(new[usable] + 1e-300) - base)).sum())
    return Tilted(log_weight, old @ averages.observables, new @ averages.observables, entropy)


def averages_lines(averages: Averages, tilted: Tilted) -> list[str]:
    """The table of measured averages, each as a distance in nm or an angle in degrees, as drawn and weighted, in errors too."""
    before, after = ((found - averages.measured) / averages.std for found in (tilted.before, tilted.after))
    columns = (averages.back(part) for part in (averages.measured, tilted.before, tilted.after))
    rows = [
        [str(label), *(number(float(part)) for part in parts)]
        for label, *parts in zip(averages.labels, *columns, before, after, strict=True)
    ]
    head = ("average", "measured", "as drawn", "weighted", "off by, as drawn [std]", "weighted [std]")
    chi = [number(float((off**2).mean())) for off in (before, after)]
    return [
        "",
        *table(head, rows),
        f"chi^2 for each average: {chi[0]} as drawn, {chi[1]} weighted",
        f"relative entropy of the change: {number(tilted.entropy)} nats",
        "",
    ]
