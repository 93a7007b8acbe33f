"""Diffusion samplers for scientific fields that are parallel in time over MPI ranks."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from .host.lazy import loader

__version__ = version("piadm_hpc")

# where each public name lives; loaded when first used, so that `import piadm_hpc` needs neither MPI nor a model
_HOMES = {
    "Chain": "theory.chain",
    "EDM": "theory.process",
    "EOF": "theory.bases",
    "Flow": "theory.process",
    "Fourier": "theory.bases",
    "GaussianReference": "gaussian.reference",
    "Identity": "theory.bases",
    "Noise": "theory.noise",
    "Options": "solvers.options",
    "OU": "theory.process",
    "Pixelwise": "theory.bases",
    "RankGrid": "comm.rank_grid",
    "Rollout": "solvers.rollout",
    "RunConfig": "config.run",
    "Sampler": "solvers.sampler",
    "Solution": "solvers.solve",
    "SphericalHarmonics": "theory.bases",
    "TimeGrid": "theory.grid",
    "VP": "theory.process",
    "check": "store.integrity",
    "eof": "gaussian.reference",
    "forecast_scores": "analysis.forecasts",
    "from_azula": "models.azula",
    "from_fields": "gaussian.reference",
    "gradient": "solvers.adjoint",
    "guided": "models.guidance",
    "isotropic": "gaussian.reference",
    "load_model": "models.card",
    "open": "analysis.opening",
    "patched": "models.patches",
    "plan": "run.plan",
    "rank_grid": "comm.rank_grid",
    "sample": "run.execute",
    "decode": "solvers.encode",
    "encode": "solvers.encode",
    "solve": "solvers.solve",
    "to_azula": "models.azula",
    "train": "models.training.command",
    "wrap": "models.base",
}
_MODULES = {"grid": "theory.grid", "integrators": "integrators", "process": "theory.process"}
_ALIASES = {"open": "open_dataset"}

if TYPE_CHECKING:
    from . import integrators as integrators
    from .analysis.forecasts import forecast_scores as forecast_scores
    from .analysis.opening import open_dataset
    from .comm.rank_grid import RankGrid as RankGrid
    from .comm.rank_grid import rank_grid as rank_grid
    from .config.run import RunConfig as RunConfig
    from .gaussian.reference import GaussianReference as GaussianReference
    from .gaussian.reference import eof as eof
    from .gaussian.reference import from_fields as from_fields
    from .gaussian.reference import isotropic as isotropic
    from .models.azula import from_azula as from_azula
    from .models.azula import to_azula as to_azula
    from .models.base import wrap as wrap
    from .models.card import load_model as load_model
    from .models.guidance import guided as guided
    from .models.patches import patched as patched
    from .models.training.command import train as train
    from .run.execute import sample as sample
    from .run.plan import plan as plan
    from .solvers.adjoint import gradient as gradient
    from .solvers.encode import decode as decode
    from .solvers.encode import encode as encode
    from .solvers.options import Options as Options
    from .solvers.rollout import Rollout as Rollout
    from .solvers.sampler import Sampler as Sampler
    from .solvers.solve import Solution as Solution
    from .solvers.solve import solve as solve
    from .store.integrity import check as check
    from .theory import grid as grid
    from .theory import process as process
    from .theory.bases import EOF as EOF
    from .theory.bases import Fourier as Fourier
    from .theory.bases import Identity as Identity
    from .theory.bases import Pixelwise as Pixelwise
    from .theory.bases import SphericalHarmonics as SphericalHarmonics
    from .theory.chain import Chain as Chain
    from .theory.grid import TimeGrid as TimeGrid
    from .theory.noise import Noise as Noise
    from .theory.process import EDM as EDM
    from .theory.process import OU as OU
    from .theory.process import VP as VP
    from .theory.process import Flow as Flow

    open = open_dataset

__all__ = sorted([*_HOMES, *_MODULES])
__getattr__ = loader(__name__, _HOMES, modules=_MODULES, aliases=_ALIASES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
