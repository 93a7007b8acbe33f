"""Integrators: functions that fill a Chain for a process and a grid, each citing its equation."""

from .building import Options, build, native, require_space, score_of
from .conjugate import lambda_ddim, lambda_ddim_ab2
from .discrete import ddim, ddpm, dpmpp_2m, heun, one_step
from .exponential import euler_maruyama, gaussian_exponential, piadm
from .langevin import underdamped

__all__ = [
    "Options",
    "build",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler_maruyama",
    "gaussian_exponential",
    "heun",
    "lambda_ddim",
    "lambda_ddim_ab2",
    "native",
    "one_step",
    "piadm",
    "require_space",
    "score_of",
    "underdamped",
]
