"""Checks of the values that a user's energy function returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def checked_energy(name: str, function: Callable[[Any], Any]) -> Callable[[Any], np.ndarray]:
    """Return an energy as a function that raises ValueError, naming it, unless it returns one real number for every sample."""

    def energy(given: Any) -> np.ndarray:
        count = len(next(iter(given.values())) if isinstance(given, dict) else given)
        try:
            found = np.asarray(function(given))
        except Exception as error:
            raise ValueError(f"--energy {name} failed: {type(error).__name__}: {error}") from error
        if found.shape != (count,) or found.dtype.kind not in "fiu":
            raise ValueError(f"--energy {name}: returned {found.dtype} {found.shape} for {count} samples; return U/kT of each")
        return found.astype(np.float64)

    return energy
