"""The catalogue of integrators: one record each, with its name, order, cost, options, source and builder.

The configuration, `piadm integrators` and the documentation are generated from these records. This file does not need torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

PAPER = "Pandey, Rudolph and Mandt 2024"
PSLD = "Pandey and Mandt 2023"
GDDIM = "Zhang, Tao and Chen 2022"


@dataclass(frozen=True)
class Integrator:
    """The record of one integrator.

    Attributes:
        name: its name in configurations.
        order: its order of accuracy in the step size on a Gaussian; 0 where the error is not a power of the step size.
        calls: number of network calls a step (NFE).
        noise: when it is random: "never", "always", or the option that scales its noise.
        space: "data", or "phase" for position and momentum.
        source: the paper that introduced it.
        builder: key of the function in `integrators.building` that builds the chain.
        program: its blocks and score times, where it belongs to the family of splittings.
        reads: keys of the configuration's chain section that it reads.
        about: a short description for tables.
        channels: number of fields of its states: the position, the momentum, and any history that it keeps.
        eta: scale of the noise where the configuration leaves it open.
    """

    name: str
    order: int
    calls: int
    noise: str
    space: str
    source: str
    builder: str
    program: str = ""
    reads: tuple[str, ...] = ()
    about: str = ""
    channels: int = 1
    eta: float = 1.0


def _flow(name: str, calls: int, program: str, about: str, *reads: str, order: int = 1, source: str = PAPER) -> Integrator:
    """Return the record of a deterministic splitting in phase space."""
    return Integrator(name, order, calls, "never", "phase", source, "flow", program, reads, about, channels=2)


def _random(name: str, calls: int, program: str, about: str, *reads: str, source: str = PAPER) -> Integrator:
    """Return the record of a stochastic splitting in phase space."""
    return Integrator(name, 1, calls, "always", "phase", source, "stochastic", program, reads, about, channels=2)


DATA = (
    Integrator(
        "gaussian", 1, 1, "eta", "data", "this package", "gaussian", reads=("eta",), about="exact on the model's Gaussian"
    ),
    Integrator(
        "gaussian-ab2",
        2,
        1,
        "eta",
        "data",
        "this package",
        "gaussian_ab2",
        reads=("eta",),
        about="two-step in the remainder",
        channels=2,
        eta=0.0,
    ),
    Integrator("piadm", 1, 1, "eta", "data", "Chen et al. 2024", "piadm", reads=("eta",), about="exponential integrator"),
    Integrator("euler-maruyama", 1, 1, "eta", "data", "Maruyama 1955", "euler_maruyama", reads=("eta",), about="baseline"),
    Integrator("euler", 1, 1, "never", "data", "Song et al. 2021", "euler", about="baseline, on the VP clock"),
    Integrator(
        "ddim",
        1,
        1,
        "eta",
        "data",
        "Song, Meng and Ermon 2021",
        "ddim",
        reads=("eta",),
        about="freezes the denoiser",
        eta=0.0,
    ),
    Integrator("ddpm", 1, 1, "always", "data", "Ho et al. 2020", "ddpm", reads=("large_variance",), about="ancestral sampling"),
    Integrator("dpmpp-2m", 2, 1, "never", "data", "Lu et al. 2022", "dpmpp_2m", about="two-step DPM-Solver++", channels=2),
    Integrator("heun", 2, 2, "never", "data", "Karras et al. 2022", "heun", about="EDM's trapezoid", channels=2),
    Integrator("lambda-ddim", 1, 1, "never", "data", PAPER, "lambda_ddim", reads=("lam",), about="conjugate; ddim at lambda 0"),
    Integrator(
        "lambda-ddim-ab2",
        2,
        1,
        "never",
        "data",
        PAPER,
        "lambda_ddim_ab2",
        reads=("lam",),
        about="its two-step version",
        channels=2,
    ),
    Integrator(
        "gms",
        1,
        3,
        "always",
        "data",
        "Guo et al. 2023",
        "gms",
        about="Gaussian mixture kernels in the model's modes",
        channels=3,
    ),
)

COLLOCATION = Integrator(
    "collocation",
    0,
    1,
    "never",
    "data",
    "this package",
    "collocation",
    about="Chebyshev points of the flow, all at once",
)

PHASE = (
    _flow("psld-euler", 1, "now euler", "baseline", source=PSLD),
    _flow("lambda-ddim-i", 1, "now ddim-I", "conjugate, B = lambda I", "lam"),
    _flow("lambda-ddim-ii", 1, "now ddim-II", "conjugate, B = lambda ones", "lam"),
    _flow("lambda-ddim-i-r", 1, "now gddim-I", "the same with the transported root", "lam"),
    _flow("lambda-ddim-ii-r", 1, "now gddim-II", "the same with the transported root", "lam"),
    _flow("gddim", 1, "now gddim-I", "transported root, lambda = 0", source=GDDIM),
    Integrator("gddim-ab2", 2, 1, "never", "phase", GDDIM, "gddim_ab2", about="its two-step version", channels=4),
    _flow("nse", 2, "now B now A", "naive symplectic Euler"),
    _flow("rse", 1, "now B A", "reduced symplectic Euler: one score for both"),
    _flow("nvv", 3, "now B/2 now A now B/2", "naive velocity Verlet"),
    _flow("rvv", 2, "now B/2 A next B/2", "reduced velocity Verlet"),
    Integrator(
        "rvv-x", 2, 2, "never", "phase", "this package", "verlet_x", about="velocity Verlet, last update extrapolated", channels=3
    ),
    _flow("cse", 1, "now Bc Ac", "conjugate symplectic Euler", "lam"),
    _flow("cvv", 2, "now Bc/1 Ac next Bc/2", "conjugate velocity Verlet", "lam"),
    _random("psld-em", 1, "now em", "baseline", source=PSLD),
    _random("sscs", 1, "E/2 score S E/2", "symmetric splitting CLD sampler", "score_time", source="Dockhorn et al. 2022"),
    _random("noba", 2, "O now B now A", "naive OBA", "lam_s"),
    _random("roba", 1, "O score B A", "reduced OBA", "lam_s", "score_time"),
    _random("nbaoab", 4, "now B/2 now A/2 O now A/2 now B/2", "naive BAOAB", "lam_s"),
    _random("rbaoab", 2, "now B/2 A/2 O score A/2 B/2", "reduced BAOAB", "lam_s", "score_time"),
    _random("nobab", 3, "O now B/2 now A now B/2", "naive OBAB", "lam_s"),
    _random("robab", 2, "O lead B/2 A trail B/2", "reduced OBAB", "lam_s", "score_time"),
    _random("coba", 1, "O score Bc Ac", "conjugate OBA", "lam", "lam_s", "score_time"),
)

INTEGRATORS = {one.name: one for one in (*DATA, COLLOCATION, *PHASE)}


def find(name: str) -> Integrator:
    """Look up an integrator by its name; an unknown name raises ValueError, and the message lists the nearest names."""
    if name in INTEGRATORS:
        return INTEGRATORS[name]
    near = difflib.get_close_matches(name, INTEGRATORS, 3, cutoff=0.5)
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "`piadm integrators` lists them"
    raise ValueError(f"unknown integrator {name!r}; {advice}")


def listing() -> str:
    """Format a table of all integrators, one line each."""
    head = ("name", "order", "calls", "random", "space", "options", "what", "source")
    rows = [
        (
            one.name, str(one.order or "-"), str(one.calls), one.noise, one.space,
            " ".join(one.reads) or "-", one.about, one.source,
        )
        for one in INTEGRATORS.values()
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
