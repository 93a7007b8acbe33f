"""Integrators: functions that fill a Chain for a process and a grid, each citing its equation."""

from .discrete import ddim, ddpm, dpmpp_2m
from .exponential import euler_maruyama, gaussian_exponential, piadm
from .langevin import underdamped

__all__ = ["ddim", "ddpm", "dpmpp_2m", "euler_maruyama", "gaussian_exponential", "piadm", "underdamped"]
