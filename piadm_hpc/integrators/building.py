"""From the name of an integrator to its chain: one function per builder of the catalogue."""

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
    """What an integrator may be told; each reads the few it names in the catalogue.

    `eta` scales the noise: 0 the probability flow, 1 the reverse SDE, by default what the catalogue says of the integrator.
    `lam` is lambda, a number or "best": the closed form lambda*(t) of every shell of the reference.
    """

    eta: float | None = None
    large_variance: bool = False
    lam: float | str = 0.0
    lam_s: float = 1.0
    score_time: str = "now"

    @property
    def number(self) -> float:
        """lambda where only a number will do."""
        if isinstance(self.lam, str):
            raise ValueError("lam = 'best' is the closed form of lambda-ddim; give a number here")
        return self.lam


@dataclass(frozen=True)
class Setting:
    """Everything a builder may use: the model's process, a grid in its time, its Gaussian, and the phase-space process."""

    method: Integrator
    process: Process
    grid: TimeGrid
    reference: GaussianReference | None
    phase: PhaseSpace
    options: Options

    @property
    def eta(self) -> float:
        """The scale of the noise, as given or the integrator's own."""
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
    """The chain of an integrator for a score of `process` on a grid in its time.

    Those of phase space run on the same score, lifted by the sufficient statistic; `phase` are their parameters. A score
    of position and momentum, process `PSLD`, takes those of phase space alone, with its own parameters.
    Raises ValueError for an unknown name (with the nearest ones), a grid that ends without noise, or a missing reference.
    """
    method = find(name)
    require_space(method, process)
    setting = Setting(method, process, grid, reference, phase or PhaseSpace(), options or Options())
    return BUILDERS[method.builder](setting)


def require_space(method: Integrator, process: Process) -> None:
    """ValueError unless the integrator moves all that a score of `process` describes."""
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
    """What an integrator's chain calls for a network's score: that score, or the kernel that is built on it."""
    return KERNELS[name](score, process, grid, reference) if name in KERNELS else score


def native(name: str, grid: PhaseGrid, options: Options | None = None) -> Chain:
    """The chain of a phase-space integrator for a score of two fields, s(z, tau) of position and momentum."""
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
    "stirred": _program(doubled=True),
    "gddim_ab2": lambda method, grid, options: gddim_ab2(grid),
    "verlet_x": lambda method, grid, options: verlet_x(grid),
}


def _in_phase(setting: Setting) -> Chain:
    """For a score of both fields as it is, for one of the position lifted."""
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
    "gaussian_ab2": lambda s: gaussian_ab2(s.process, s.grid, _with_reference(s)),
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
