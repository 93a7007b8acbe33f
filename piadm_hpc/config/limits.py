"""The largest numbers that configurations may hold: beyond what anybody needs, and below what a machine would choke on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST, MOST_THREADS = 1_000_000, 4096

LARGEST_ID = 2**31 - 1
"""The largest sample id; files store ids as 32-bit integers."""

MOST_SAMPLES = 10_000_000
"""The largest number of samples of one run; lists of ids are held in memory on every rank."""

Count = Annotated[int, Field(ge=1, le=MOST)]
"""How many of something a run can have."""

Many = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
"""How many samples, or rows of a network call."""
