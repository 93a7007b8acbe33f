"""The one equation: a chain of affine steps with a score in them, and the linear part every sweep is built on.

    x[j+1] = P[j] x[j] + Q[j] s(x[j], t[j]) + N[j] xi[j] + M[j] mean                                    (chain)

A state has one or two *channels*, each a field: position alone, position and momentum, or position and the previous
denoised estimate (multistep methods). The score reads channel 0, so P and N are c x c blocks and Q a column.
Tables are float64 and carry one entry per shell of the chain's basis (one shell for the usual scalar tables).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .bases import Basis, Identity
from .grid import TimeGrid
from .reference import GaussianReference


@dataclass(frozen=True)
class Chain:
    """Tables P [J, K, c, c], Q [J, K, c], N [J, K, c, c] and grid points t [J+1] of a chain; K shells, c channels.

    Shorter forms are accepted and completed: P [J] (one number a step), [J, K] (one a shell), [J, c, c] (one block a
    step), and likewise Q and N; N may be omitted when nothing is random. `alpha`, `sigma` [J+1] let solvers watch the
    denoised estimate (and are needed by references); `edges` are the block boundaries (default: one block).
    `basis` belongs to tables with several shells, `mean` [d] and `M` [J, K, c] to chains about a mean field.
    Raises ValueError, with every mistake at once, for tables that do not fit together.
    """

    P: Tensor
    Q: Tensor
    N: Tensor | None
    t: Tensor
    alpha: Tensor | None = None
    sigma: Tensor | None = None
    edges: tuple[int, ...] = ()
    basis: Basis | None = None
    mean: Tensor | None = None
    M: Tensor | None = None

    def __post_init__(self) -> None:
        t = torch.as_tensor(self.t, dtype=torch.float64)
        P = _blocks(torch.as_tensor(self.P, dtype=torch.float64))
        channels = P.shape[-1]
        N = torch.zeros_like(P) if self.N is None else _blocks(torch.as_tensor(self.N, dtype=torch.float64))
        Q = _columns(torch.as_tensor(self.Q, dtype=torch.float64), channels)
        M = torch.zeros_like(Q) if self.M is None else _columns(torch.as_tensor(self.M, dtype=torch.float64), channels)
        levels = [None if a is None else torch.as_tensor(a, dtype=torch.float64) for a in (self.alpha, self.sigma)]
        for name, value in zip(("t", "P", "Q", "N", "M", "alpha", "sigma"), (t, P, Q, N, M, *levels), strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "edges", tuple(self.edges) or (0, len(t) - 1))
        self._check()

    def _check(self) -> None:
        J = len(self.t) - 1
        mistakes = [
            f"{name} has {len(table)} steps, the {len(self.t)} times make {J}"
            for name, table in (("P", self.P), ("Q", self.Q), ("N", self.noise), ("M", self.shift))
            if len(table) != J
        ]
        mistakes += [
            f"{name} has {len(level)} points, t has {len(self.t)}"
            for name, level in (("alpha", self.alpha), ("sigma", self.sigma))
            if level is not None and len(level) != len(self.t)
        ]
        mistakes += [
            f"{name} contains a number that is not finite"
            for name, table in (("t", self.t), ("P", self.P), ("Q", self.Q), ("N", self.noise))
            if not bool(torch.isfinite(table).all())
        ]
        if self.edges[0] != 0 or self.edges[-1] != J or any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)):
            mistakes.append(f"block edges must increase from 0 to {J}, got {self.edges}")
        shells = max(self.P.shape[1], self.Q.shape[1], self.noise.shape[1])
        if shells > 1 and (self.basis is None or self.basis.num_shells != shells):
            mistakes.append(f"tables with {shells} shells need a basis with as many")
        if (self.alpha is None) != (self.sigma is None):
            mistakes.append("give alpha and sigma together")
        if mistakes:
            raise ValueError("chain: " + "; ".join(mistakes))

    @property
    def noise(self) -> Tensor:
        """The table N; a chain without randomness has zeros."""
        assert self.N is not None
        return self.N

    @property
    def shift(self) -> Tensor:
        """The table M; zeros for chains that are not about a mean field."""
        assert self.M is not None
        return self.M

    @property
    def num_steps(self) -> int:
        return len(self.t) - 1

    @property
    def channels(self) -> int:
        return int(self.P.shape[-1])

    @cached_property
    def stochastic(self) -> bool:
        """Whether any step is random; looked at once, since every step asks."""
        return bool((self.noise != 0).any())

    @property
    def grid(self) -> TimeGrid:
        """Blocks of the chain. Chains at one frozen time (correctors) keep their step numbers as clock."""
        clock = -torch.arange(len(self.t), dtype=torch.float64)
        return TimeGrid(clock, self.edges)

    def frame(self, size: int, basis: Basis | None = None) -> Basis:
        """The basis sweeps work in: the chain's own, else the linear part's, else the grid of `size` entries itself."""
        return self.basis or basis or Identity((size,))


def affine(out: Tensor, base: Tensor | None, block: Tensor, z: Tensor) -> Tensor:
    """out = base + block z: blocks [n or 1, c, c] acting on coordinates [..., c, n], elementwise in n; out is not z.

    Written into `out` without temporaries: sweeps over large fields are bound by memory, not arithmetic.
    """
    for row in range(z.shape[-2]):
        if base is None:
            torch.mul(block[:, row, 0], z[..., 0, :], out=out[..., row, :])
        else:
            torch.addcmul(base[..., row, :], block[:, row, 0], z[..., 0, :], out=out[..., row, :])
        for k in range(1, z.shape[-2]):
            out[..., row, :].addcmul_(block[:, row, k], z[..., k, :])
    return out


def apply(block: Tensor, z: Tensor) -> Tensor:
    """Blocks [n or 1, c, c] acting on coordinates [..., c, n]."""
    return affine(torch.empty_like(z), None, block, z)


def add_lifted(out: Tensor, column: Tensor, field: Tensor) -> Tensor:
    """out += column field in place: columns [n or 1, c] times one field of coordinates [..., n], into [..., c, n]."""
    for row in range(column.shape[-1]):
        out[..., row, :].addcmul_(column[:, row], field)
    return out


def expand(basis: Basis, table: Tensor, like: Tensor) -> Tensor:
    """One step's table per shell, [K, ...], as a table per coordinate, [n or 1, ...], in the precision of `like`."""
    moved = table.to(like.dtype).to(like.device).movedim(0, -1)
    full = moved if moved.shape[-1] == 1 else basis.expand(moved)
    return full.movedim(-1, 0)


@dataclass(frozen=True)
class LinearPart:
    """A [J, K, c, c]: the part of every step that a sweep treats exactly; the fixed point does not depend on it.

    `slope` [J, K] is the Jacobian of the reference's score where the part comes from one.
    """

    A: Tensor
    basis: Basis | None = None
    slope: Tensor | None = None

    def product(self, start: int, stop: int) -> Tensor:
        """A[stop-1] ... A[start], float64 [K, c, c]; the identity when the range is empty."""
        total = torch.eye(self.A.shape[-1], dtype=torch.float64).expand(self.A.shape[1:]).clone()
        for j in range(start, stop):
            total = self.A[j] @ total
        return total


def identity_part(chain: Chain) -> LinearPart:
    """A = I, the choice of ParaDiGMS (Shih et al. 2023)."""
    eye = torch.eye(chain.channels, dtype=torch.float64)
    return LinearPart(eye.expand(chain.num_steps, 1, *eye.shape), chain.basis)


def process_part(chain: Chain) -> LinearPart:
    """A = P, the choice of PIADM (Chen et al. 2024): what the process does without a score is exact."""
    return LinearPart(chain.P, chain.basis)


def denoised_part(chain: Chain) -> LinearPart:
    """A = P - Q / sigma^2: the denoised estimate held instead of the score, the data-prediction form of a step."""
    if chain.sigma is None:
        raise ValueError("holding the denoised estimate needs the noise levels: give the chain its alpha and sigma")
    return _pulled(chain, -1 / chain.sigma[:-1, None] ** 2, chain.basis)


def reference_part(chain: Chain, reference: GaussianReference) -> LinearPart:
    """A = P + Q J with the Jacobian J of a Gaussian reference's score, per shell: a Gaussian is solved in one sweep."""
    if chain.alpha is None or chain.sigma is None:
        raise ValueError("a reference needs to know the noise levels: give the chain its alpha and sigma")
    if chain.basis is not None and chain.basis is not reference.basis:
        raise ValueError("the chain's tables and the reference must share one basis; build both from the same reference")
    return _pulled(chain, reference.jacobian(chain.alpha[:-1], chain.sigma[:-1]), reference.basis)


def _pulled(chain: Chain, slope: Tensor, basis: Basis | None) -> LinearPart:
    """P + Q slope, for a score of slope [J, K] in the first channel."""
    pulled = chain.Q * slope[..., None]
    pull = torch.zeros(*pulled.shape, chain.channels, dtype=torch.float64)
    pull[..., 0] = pulled
    return LinearPart(chain.P + pull, basis, slope)


def _blocks(table: Tensor) -> Tensor:
    """[J], [J, K] or [J, c, c] completed to [J, K, c, c]."""
    if table.ndim == 1:
        return table[:, None, None, None]
    if table.ndim == 2:
        return table[:, :, None, None]
    return table[:, None] if table.ndim == 3 else table


def _columns(table: Tensor, channels: int) -> Tensor:
    """[J], [J, K] (one channel) or [J, c] (several) completed to [J, K, c]."""
    if table.ndim == 1:
        return table[:, None, None].expand(-1, 1, channels) if channels == 1 else table[:, None, None]
    if table.ndim == 2:
        return table[:, :, None] if channels == 1 else table[:, None]
    return table
