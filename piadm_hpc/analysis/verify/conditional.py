"""Reference conformers for samples that are given a condition: the held-out frames of the same conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...config.run import RunConfig
from ...models.record import GIVEN
from ...run.conditions import given_conditions
from ...store.arrays import read_arrays
from .conformers import Conformers

CLOSE = 1e-6  # relative difference of numbers that are the same condition


def under_conditions(real: Conformers, file: Path, config: RunConfig) -> Conformers:
    """The frames of a model's held-out `file` under the conditions of a run, each of which weighs the same, as in the run.

    Raises ValueError for a condition that no frame has.
    """
    if config.condition.file is None:
        return real
    wanted, arrays = given_conditions(config).values, read_arrays(file)[0]
    weight = np.zeros(len(real.weight))
    for k in range(len(next(iter(wanted.values())))):
        given = {name: float(values[k]) for name, values in wanted.items()}
        same = [np.isclose(arrays[f"{GIVEN}{name}"].values, value, rtol=CLOSE, atol=CLOSE) for name, value in given.items()]
        here = np.where(np.all(same, axis=0), real.weight, 0.0)
        if not here.any():
            described = ", ".join(f"{name} = {value:g}" for name, value in given.items())
            raise ValueError(f"{real.label} has no frame at {described}; give frames of this condition with --against FILE")
        weight += here / here.sum()
    kept = weight > 0
    label = f"{real.label}, {int(kept.sum())} frames of the same conditions"
    return replace(real, label=label, positions=real.positions[kept], weight=weight[kept] / weight.sum())
