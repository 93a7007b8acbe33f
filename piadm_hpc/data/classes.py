"""Inputs of a condition that are classes: whole numbers below a given one."""

from __future__ import annotations

import numpy as np

from .mistakes import few


def require_declared(kind: str, classes: int | None) -> None:
    """Raise ValueError unless exactly inputs of the kind "class" say how many classes there are."""
    if (kind == "class") != (classes is not None):
        raise ValueError('`classes`, how many there are, belongs to kind = "class" and is needed there')


def require_whole_numbers(values: np.ndarray, low: int, high: int) -> None:
    """Raise ValueError for finite values that are no whole numbers from `low` to `high`, naming the first few."""
    known = values[np.isfinite(values)]
    wrong = np.unique(known[(known < low) | (known > high) | (known != np.round(known))])
    if len(wrong):
        raise ValueError(f"holds {few([f'{number:g}' for number in wrong], 5)}; accepted are whole numbers from {low} to {high}")
