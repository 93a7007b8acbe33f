"""Chains by the name of their integrator: one function for every builder that the catalogue names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from ..theory.grid import TimeGrid
from ..theory.phase import PhaseSpace
from ..theory.process import PSLD, Process, Tabulated
from .assembly import PhaseGrid, lift, phase_grid
from .catalogue import Integrator, find
from .conjugate import best_lambda, euler, lambda_ddim, lambda_ddim_ab2
from .discrete import ddim, ddpm, dpmpp_2m, heun
from .exponential import euler_maruyama, gaussian_exponential, piadm
from .gaussian_multistep import gaussian_ab2
from .history import gddim_ab2, verlet_x
from .mixture import Score, gms, kernel
from .splitting import Knobs, program_chain

BETWEEN_POINTS = ("collocation", "gms")


@dataclass(frozen=True)
class Options:
    """Options of the integrators; every integrator reads only those that its record in the catalogue names.

    Attributes:
        eta: scale of the noise, 0 for the probability flow and 1 for the reverse SDE; None takes the catalogue's value.
        large_variance: use the larger of DDPM's two variances.
        lam: lambda of the conjugate integrators, a number, or "best" for the closed form lambda*(t) of every shell of the
            reference.
        lam_s: scale of the position's noise in the splittings' Ornstein-Uhlenbeck step.
        score_time: time at which the splittings evaluate the score: "now", "middle", "next" or "ahead".
    """

    eta: float | None = None
    large_variance: bool = False
    lam: float | str = 0.0
    lam_s: float = 1.0
    score_time: str = "now"

    @property
    def number(self) -> float:
        """Lambda for integrators that need a number; ValueError for "best"."""
        if isinstance(self.lam, str):
            raise ValueError("lam = 'best' is the closed form of lambda-ddim; give a number here")
        return self.lam


@dataclass(frozen=True)
class Setting:
    """The arguments of a builder: the model's process, a grid in its time, its Gaussian, and the phase-space process."""

    method: Integrator
    process: Process
    grid: TimeGrid
    reference: GaussianReference | None
    phase: PhaseSpace
    options: Options

    @property
    def eta(self) -> float:
        """The scale of the noise, from the options or else from the catalogue."""
        return self.method.eta if self.options.eta is None else self.options.eta


def build(
    name: str,
    process: Process,
    grid: TimeGrid,
    *,
    reference: GaussianReference | None = None,
    phase: PhaseSpace | None = None,
    options: Options | None = None,
) -> Chain:
    """Build the chain of an integrator for a score of `process`, on a grid in its time.

    Phase-space integrators use the same score, lifted by the sufficient statistic, and the parameters `phase`. A score of
    position and momentum (process `PSLD`) accepts only phase-space integrators, which use the parameters of that process.

    Raises:
        ValueError: for an unknown name (the message lists the nearest ones), for an integrator that does not suit the process,
            for a grid that ends without noise, and for a missing reference.
    """
    method = find(name)
    require_space(method, process)
    setting = Setting(method, process, grid, reference, phase or PhaseSpace(), options or Options())
    return BUILDERS[method.builder](setting)


def require_space(method: Integrator, process: Process) -> None:
    """Raise ValueError if the integrator cannot use a score of `process`."""
    if process.fields > 1 and method.space == "data":
        raise ValueError(
            f"{method.name} moves the position alone, and this model was trained on position and momentum: take an integrator "
            "of phase space, for example gddim-ab2 or rbaoab (`piadm integrators` lists them)"
        )
    if isinstance(process, Tabulated) and process.whole and (method.space == "phase" or method.name in BETWEEN_POINTS):
        raise ValueError(
            f"{method.name} calls the network between the grid's points, and this network takes whole indices of its schedule: "
            "take an integrator that calls it at the points alone, for example gaussian, gaussian-ab2, ddim or dpmpp-2m"
        )


def score_of(name: str, score: Score, process: Process, grid: TimeGrid, reference: GaussianReference) -> Score:
    """Return the score that an integrator's chain calls: the network's own, or the kernel that is built on it."""
    return KERNELS[name](score, process, grid, reference) if name in KERNELS else score


def native(name: str, grid: PhaseGrid, options: Options | None = None) -> Chain:
    """Build the chain of a phase-space integrator for a score of two fields, s(z, tau) of position and momentum.

    Raises ValueError for an unknown name, and for integrators in data space.
    """
    method = find(name)
    if method.builder not in NATIVE:
        known = ", ".join(one for one in NATIVE)
        raise ValueError(f"{name} is not an integrator of phase space (those are built by {known})")
    return NATIVE[method.builder](method, grid, options or Options())


def _program(*, doubled: bool) -> Callable[[Integrator, PhaseGrid, Options], Chain]:
    def fill(method: Integrator, grid: PhaseGrid, options: Options) -> Chain:
        lam = options.number if "lam" in method.reads else 0.0
        return program_chain(grid, method.program, Knobs(lam, options.lam_s, options.score_time), doubled=doubled)

    return fill


NATIVE: dict[str, Callable[[Integrator, PhaseGrid, Options], Chain]] = {
    "flow": _program(doubled=False),
    "stochastic": _program(doubled=True),
    "gddim_ab2": lambda method, grid, options: gddim_ab2(grid),
    "verlet_x": lambda method, grid, options: verlet_x(grid),
}


def _in_phase(setting: Setting) -> Chain:
    """Build a phase-space chain: native for a score of both fields, lifted for a score of the position."""
    if isinstance(setting.process, PSLD):
        grid = PhaseGrid(setting.process.space, setting.grid.t, setting.grid.edges)
        return NATIVE[setting.method.builder](setting.method, grid, setting.options)
    grid = phase_grid(setting.phase, setting.process, setting.grid)
    return lift(NATIVE[setting.method.builder](setting.method, grid, setting.options), setting.phase, setting.process)


def _with_reference(setting: Setting) -> GaussianReference:
    if setting.reference is None:
        raise ValueError(f"{setting.method.name} needs the model's Gaussian reference")
    return setting.reference


def _lambda_ddim(setting: Setting) -> Chain:
    if setting.options.lam != "best":
        return lambda_ddim(setting.process, setting.grid, lam=setting.options.number)
    reference = _with_reference(setting)
    lam = best_lambda(setting.process, setting.grid, reference.spectrum.cpu())
    return lambda_ddim(setting.process, setting.grid, lam=lam, reference=reference)


KERNELS: dict[str, Callable[[Score, Process, TimeGrid, GaussianReference], Score]] = {"gms": kernel}

BUILDERS: dict[str, Callable[[Setting], Chain]] = {
    "piadm": lambda s: piadm(s.process, s.grid, eta=s.eta),
    "euler_maruyama": lambda s: euler_maruyama(s.process, s.grid, eta=s.eta),
    "gaussian": lambda s: gaussian_exponential(s.process, s.grid, _with_reference(s), eta=s.eta),
    "gaussian_ab2": lambda s: gaussian_ab2(s.process, s.grid, _with_reference(s), eta=s.eta),
    "euler": lambda s: euler(s.process, s.grid),
    "ddim": lambda s: ddim(s.process, s.grid, eta=s.eta),
    "ddpm": lambda s: ddpm(s.process, s.grid, large_variance=s.options.large_variance),
    "dpmpp_2m": lambda s: dpmpp_2m(s.process, s.grid),
    "heun": lambda s: heun(s.process, s.grid),
    "lambda_ddim": _lambda_ddim,
    "gms": lambda s: gms(s.process, s.grid, _with_reference(s)),
    "lambda_ddim_ab2": lambda s: lambda_ddim_ab2(s.process, s.grid, lam=s.options.number),
    **dict.fromkeys(NATIVE, _in_phase),
}
