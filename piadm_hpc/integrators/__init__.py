"""Integrators: functions that fill a Chain for a process and a grid, each citing its equation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.lazy import loader

# these are loaded on first use, so that the catalogue, which checks configurations, can be imported without torch
_HOMES = {
    "Options": "building",
    "build": "building",
    "ddim": "discrete",
    "ddpm": "discrete",
    "dpmpp_2m": "discrete",
    "euler_maruyama": "exponential",
    "gaussian_ab2": "gaussian_multistep",
    "gaussian_exponential": "exponential",
    "heun": "discrete",
    "lambda_ddim": "conjugate",
    "lambda_ddim_ab2": "conjugate",
    "native": "building",
    "one_step": "discrete",
    "piadm": "exponential",
    "require_space": "building",
    "score_of": "building",
    "underdamped": "langevin",
}

if TYPE_CHECKING:
    from .building import Options as Options
    from .building import build as build
    from .building import native as native
    from .building import require_space as require_space
    from .building import score_of as score_of
    from .conjugate import lambda_ddim as lambda_ddim
    from .conjugate import lambda_ddim_ab2 as lambda_ddim_ab2
    from .discrete import ddim as ddim
    from .discrete import ddpm as ddpm
    from .discrete import dpmpp_2m as dpmpp_2m
    from .discrete import heun as heun
    from .discrete import one_step as one_step
    from .exponential import euler_maruyama as euler_maruyama
    from .exponential import gaussian_exponential as gaussian_exponential
    from .exponential import piadm as piadm
    from .gaussian_multistep import gaussian_ab2 as gaussian_ab2
    from .langevin import underdamped as underdamped

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES)
