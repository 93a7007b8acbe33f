"""Splitting integrators in phase space, written as programs: a line of blocks, and of words that evaluate the score.

The blocks are of first order in their own step h (Pandey, Rudolph and Mandt 2024). B kicks the momentum, A moves the position,
and O is the exact Ornstein-Uhlenbeck step of both. E is the exact transition of SSCS, and S is its Euler step. Bc and Ac are B
and A by conjugate integration of their own equations. In stochastic programs the score terms of A and B are doubled, so that
together with O they sum to the reverse SDE. A word such as `now` evaluates the score for the blocks that follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..theory.chain import Chain
from ..theory.phase import gauss_legendre
from .assembly import Map, Node, PhaseGrid, affine_map, native_chain

F64 = torch.float64
TIMES = ("now", "next", "score", "lead", "trail")
CONDITIONS = ("now", "middle", "next", "ahead")


@dataclass(frozen=True)
class Knobs:
    """Parameters of the blocks.

    Attributes:
        lam: lambda of the conjugate blocks.
        lam_s: lambda_s, the scale of the position's noise in O.
        score_time: time at which the program evaluates its score, one of `CONDITIONS`.
    """

    lam: float = 0.0
    lam_s: float = 1.0
    score_time: str = "now"


def program_chain(grid: PhaseGrid, program: str, knobs: Knobs, *, doubled: bool = False) -> Chain:
    """Build the native chain of a program such as "now B/2 A next B/2"; ValueError for an unknown `score_time`."""
    if knobs.score_time not in CONDITIONS:
        raise ValueError(f"score_time = {knobs.score_time!r}; the score can be taken {', '.join(CONDITIONS)}")
    before: Map | None = None
    nodes: list[Node] = []
    for word in program.split():
        if word in TIMES:
            nodes.append(Node(grid.at(_time_of(word, knobs.score_time)), _identity(grid), torch.eye(2, dtype=F64)))
            continue
        score_tau = nodes[-1].tau if nodes else grid.tau[:-1]
        block = BLOCKS[word.rstrip("/12")](_Step(grid, word, score_tau, knobs, 2.0 if doubled else 1.0))
        if nodes:
            nodes[-1] = Node(nodes[-1].tau, nodes[-1].map.then(block), nodes[-1].rows)
        else:
            before = block if before is None else before.then(block)
    return native_chain(grid, nodes, before)


def _time_of(word: str, score_time: str) -> str:
    """Choose the time of a score; `lead` and `trail`, the two scores of OBAB, are at tau + h and the next time for `ahead`."""
    if word == "lead":
        return "ahead" if score_time == "ahead" else "now"
    if word == "trail":
        return "next" if score_time == "ahead" else score_time
    return score_time if word == "score" else word


@dataclass(frozen=True)
class _Step:
    """The arguments of a block: the grid, its word, the times of its score [J], the parameters, and the factor of the score."""

    grid: PhaseGrid
    word: str
    score_tau: Tensor
    knobs: Knobs
    factor: float

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Times [J] at which the block begins and ends: `/1` is the first half of a step, `/2` the second, else the whole."""
        high, low = self.grid.tau[:-1], self.grid.tau[1:]
        middle = (high + low) / 2
        if self.word.endswith("/1"):
            return high, middle
        return (middle, low) if self.word.endswith("/2") else (high, low)

    @property
    def h(self) -> Tensor:
        high, low = self.ends
        return (high - low)[:, None, None]


def _identity(grid: PhaseGrid) -> Map:
    return affine_map(torch.eye(2, dtype=F64).repeat(len(grid.step), 1, 1))


def _matrix(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor(rows, dtype=F64)


def _euler_block(step: _Step, linear: Tensor, score: Tensor) -> Map:
    return affine_map(torch.eye(2, dtype=F64) + step.h * linear, step.h * score.expand(len(step.h), 2, 2))


def _kick(step: _Step) -> Map:
    """B: m += (h beta / 2)(x + nu m + M nu s_m); stochastic programs double the terms in nu."""
    phase, half = step.grid.phase, step.grid.phase.beta / 2
    nu = step.factor * phase.nu
    return _euler_block(step, half * _matrix((0, 0), (1, nu)), half * _matrix((0, 0), (0, phase.mass * nu)))


def _move(step: _Step) -> Map:
    """A: x += (h beta / 2)(Gamma x - m / M + Gamma s_x); stochastic programs double the terms in Gamma."""
    phase, half = step.grid.phase, step.grid.phase.beta / 2
    gamma = step.factor * phase.gamma
    return _euler_block(step, half * _matrix((gamma, -phase.inverse_mass), (0, 0)), half * _matrix((gamma, 0), (0, 0)))


def _noise(step: _Step) -> Map:
    """O: both coordinates decay and receive noise; lambda_s scales the position's noise."""
    phase, h = step.grid.phase, step.h[:, 0, 0]
    rates = h[:, None] * phase.beta * _matrix((phase.gamma, phase.nu))
    added = torch.stack([-torch.expm1(-step.knobs.lam_s * rates[:, 0]), -phase.mass * torch.expm1(-rates[:, 1])], dim=-1)
    return affine_map(torch.diag_embed(torch.exp(-rates / 2)), C=torch.diag_embed(added))


def _transition(step: _Step) -> Map:
    """E of SSCS: the exact transition of dz = (beta/2) [[-Gamma, -1/M], [1, -nu]] z dt + G dw."""
    phase = step.grid.phase
    rotated = phase.beta / 2 * _matrix((-phase.gamma, -phase.inverse_mass), (1, -phase.nu))
    flow = torch.linalg.matrix_exp(step.h * rotated)
    return affine_map(flow, C=phase.stationary - flow @ phase.stationary @ flow.mT)


def _score_step(step: _Step) -> Map:
    """S of SSCS: an Euler step of the terms that E leaves out, beta (Gamma (x + s_x), nu m + M nu s_m)."""
    phase = step.grid.phase
    linear = phase.beta * _matrix((phase.gamma, 0), (0, phase.nu))
    return _euler_block(step, linear, phase.diffusion)


def _euler(step: _Step) -> Map:
    """An Euler step of the whole probability flow."""
    phase = step.grid.phase
    return _euler_block(step, -phase.drift, 0.5 * phase.diffusion)


def _euler_maruyama(step: _Step) -> Map:
    """An Euler-Maruyama step of the whole reverse SDE."""
    phase = step.grid.phase
    plain = _euler_block(step, -phase.drift, phase.diffusion)
    return affine_map(plain.P, plain.Q, step.h * phase.diffusion)


def conjugated(step: _Step, drift: Tensor, diffusion: Tensor, B: Tensor, *, transported: bool = False) -> Map:
    """Integrate dz = F z - G G^T s / 2 over a step by conjugate integration, with a constant prediction eps = -root^T s.

    z' = e^{(B-F) h} (I - h B) z - W eps, with W = int e^{(B-F)(s-low)} (G G^T / 2) root_s^-T ds by Gauss-Legendre. The root is
    the Cholesky factor of the kernel or, with `transported`, the root that the flow transports (gDDIM), for which eps is
    constant on point data.
    """
    high, low = step.ends
    generator, h = B - drift, step.h
    where, weights = gauss_legendre(low, high)
    phase = step.grid.phase
    carry = torch.linalg.matrix_exp(generator * (where - low[:, None])[..., None, None])
    root = phase.factor(where)
    if transported:
        root = phase.root(where, -phase.turn(where, high[:, None].expand_as(where)))
    W = (weights[..., None, None] * (carry @ (0.5 * diffusion) @ torch.linalg.inv(root).mT)).sum(1)
    P = torch.linalg.matrix_exp(generator * h) @ (torch.eye(2, dtype=F64) - h * B)
    return affine_map(P, W @ phase.factor(step.score_tau).mT)


def _conjugate_kick(step: _Step) -> Map:
    phase, half = step.grid.phase, step.grid.phase.beta / 2
    drift = half * _matrix((0, 0), (-1, -step.factor * phase.nu))
    diffusion = step.factor * phase.diffusion * _matrix((0, 0), (0, 1))
    return conjugated(step, drift, diffusion, step.knobs.lam * _matrix((0, 0), (1, 1)))


def _conjugate_move(step: _Step) -> Map:
    phase, half = step.grid.phase, step.grid.phase.beta / 2
    drift = half * _matrix((-step.factor * phase.gamma, phase.inverse_mass), (0, 0))
    diffusion = step.factor * phase.diffusion * _matrix((1, 0), (0, 0))
    return conjugated(step, drift, diffusion, step.knobs.lam * _matrix((1, 1), (0, 0)))


def _whole(B: Tensor, *, transported: bool) -> Callable[[_Step], Map]:
    def block(step: _Step) -> Map:
        phase = step.grid.phase
        return conjugated(step, phase.drift, phase.diffusion, step.knobs.lam * B, transported=transported)

    return block


BLOCKS: dict[str, Callable[[_Step], Map]] = {
    "A": _move,
    "B": _kick,
    "O": _noise,
    "E": _transition,
    "S": _score_step,
    "Ac": _conjugate_move,
    "Bc": _conjugate_kick,
    "euler": _euler,
    "em": _euler_maruyama,
    "ddim-I": _whole(torch.eye(2, dtype=F64), transported=False),
    "ddim-II": _whole(torch.ones(2, 2, dtype=F64), transported=False),
    "gddim-I": _whole(torch.eye(2, dtype=F64), transported=True),
    "gddim-II": _whole(torch.ones(2, 2, dtype=F64), transported=True),
}
