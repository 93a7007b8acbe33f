"""Every integrator as one record: what it is called, what it costs, what it reads, where it comes from and what builds it.

The configuration, `piadm integrators` and the documentation are made from these records; nothing here needs torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

PAPER = "Pandey, Rudolph and Mandt 2024"
PSLD = "Pandey and Mandt 2023"
GDDIM = "Zhang, Tao and Chen 2022"


@dataclass(frozen=True)
class Integrator:
    """One method.

    `order` is its order in the step on a Gaussian (0: no power of it), `calls` the network calls of a step. `noise` says
    when it is random: "never", "always", or the option that scales its noise. `space` is "data" or "phase" (position and
    momentum). `builder` names the function of `integrators.building` that fills the chain, `program` its blocks where it
    is one of a family. `reads` are the options of the configuration's chain section that it looks at. Its states have `channels`
    fields: position and momentum, and what a method remembers. `eta` is what stands for the option of that name left open.
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
    """A deterministic program of phase space."""
    return Integrator(name, order, calls, "never", "phase", source, "flow", program, reads, about, channels=2)


def _random(name: str, calls: int, program: str, about: str, *reads: str, source: str = PAPER) -> Integrator:
    """A stochastic program of phase space."""
    return Integrator(name, 1, calls, "always", "phase", source, "stirred", program, reads, about, channels=2)


DATA = (
    Integrator(
        "gaussian", 1, 1, "eta", "data", "this package", "gaussian", reads=("eta",), about="exact on the model's Gaussian"
    ),
    Integrator(
        "gaussian-ab2", 2, 1, "never", "data", "this package", "gaussian_ab2", about="two steps of the remainder", channels=2
    ),
    Integrator("piadm", 1, 1, "eta", "data", "Chen et al. 2024", "piadm", reads=("eta",), about="exponential integrator"),
    Integrator("euler-maruyama", 1, 1, "eta", "data", "Maruyama 1955", "euler_maruyama", reads=("eta",), about="baseline"),
    Integrator("euler", 1, 1, "never", "data", "Song et al. 2021", "euler", about="baseline, on the VP clock"),
    Integrator(
        "ddim", 1, 1, "eta", "data", "Song, Meng and Ermon 2021", "ddim", reads=("eta",), about="denoised estimate held", eta=0.0
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
        about="Gaussian mixture kernels, in the model's modes",
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
        "rvv-x", 2, 2, "never", "phase", "this package", "verlet_x", about="velocity Verlet, last kick extrapolated", channels=3
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
    """The integrator of a name; ValueError with the nearest names for another."""
    if name in INTEGRATORS:
        return INTEGRATORS[name]
    near = difflib.get_close_matches(name, INTEGRATORS, 3, cutoff=0.5)
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "`piadm integrators` lists them"
    raise ValueError(f"unknown integrator {name!r}; {advice}")


def listing() -> str:
    """A table of all integrators, one line each."""
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
