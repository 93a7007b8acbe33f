"""Upper limits of the numbers in configurations: far above any practical run, and low enough to fail early instead of late."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST, MOST_THREADS = 1_000_000, 4096

LARGEST_ID = 2**31 - 1
"""The largest sample id; files store ids as 32-bit integers."""

MOST_SAMPLES = 10_000_000
"""The largest number of samples of one run; every rank keeps the list of their ids in memory."""

MOST_POINTS = 2**28
"""The largest number of points of a domain: 2 GB for one field in double precision."""

Count = Annotated[int, Field(ge=1, le=MOST)]
"""A number of steps, points, sweeps, blocks and the like."""

Many = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
"""A number of samples, or of rows of a network call."""
