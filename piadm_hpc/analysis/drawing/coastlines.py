"""The outline of the continents, for maps: Natural Earth 1:110m, in the public domain; coastlines.txt says more."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("coastlines.txt")


@cache
def coastlines() -> tuple[np.ndarray, ...]:
    """All coastlines as polylines [points, 2] of longitude and latitude in degrees, from about -180 to 180."""
    lines = [line for line in FILE.read_text(encoding="ascii").splitlines() if not line.startswith("#")]
    steps = ([[int(number) for number in pair.split(",")] for pair in line.split()] for line in lines)
    return tuple(np.cumsum(np.array(line), axis=0) / 100 for line in steps)


def coastlines_between(west: float, east: float) -> list[np.ndarray]:
    """The polylines that reach between two meridians, moved by whole turns to their range of longitudes."""
    turns = range(int(np.floor((west - 180) / 360)), int(np.ceil((east + 180) / 360)) + 1)
    moved = [line + np.array([360.0 * turn, 0.0]) for turn in turns for line in coastlines()]
    return [line for line in moved if line[:, 0].max() > west and line[:, 0].min() < east]
