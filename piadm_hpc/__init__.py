"""Diffusion samplers for scientific fields that are parallel in time over MPI ranks."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from .lazy import loader

__version__ = version("piadm_hpc")

# where each public name lives; loaded when first used, so that `import piadm_hpc` needs neither MPI nor a model
_HOMES = {
    "Chain": "chain",
    "EDM": "process",
    "Flow": "process",
    "GaussianReference": "reference",
    "Noise": "noise",
    "OU": "process",
    "RankGrid": "comm",
    "RunConfig": "config",
    "Sampler": "sampler",
    "Solution": "solving",
    "TimeGrid": "grid",
    "VP": "process",
    "check": "store",
    "integrators": "",
    "load_model": "models.card",
    "open": "store",
    "plan": "planning",
    "rank_grid": "comm",
    "sample": "run",
    "solve": "solving",
    "wrap": "models.base",
}
_ALIASES = {"open": "open_run"}

if TYPE_CHECKING:
    from . import integrators as integrators
    from .chain import Chain as Chain
    from .comm import RankGrid as RankGrid
    from .comm import rank_grid as rank_grid
    from .config import RunConfig as RunConfig
    from .grid import TimeGrid as TimeGrid
    from .models.base import wrap as wrap
    from .models.card import load_model as load_model
    from .noise import Noise as Noise
    from .planning import plan as plan
    from .process import EDM as EDM
    from .process import OU as OU
    from .process import VP as VP
    from .process import Flow as Flow
    from .reference import GaussianReference as GaussianReference
    from .run import sample as sample
    from .sampler import Sampler as Sampler
    from .solving import Solution as Solution
    from .solving import solve as solve
    from .store import check as check
    from .store import open_run as open  # noqa: F401

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES, _ALIASES)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
