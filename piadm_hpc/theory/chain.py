"""The one equation: a chain of affine steps with a score in them, and how its tables act on states.

    x[j+1] = P[j] x[j] + Q[j] s(x[j], t[j]) + N[j] xi[j] + M[j] mean                                    (chain)

A state has one or more *channels*, each of them a field: position alone, position and momentum, or position and the previous
denoised estimate (multistep methods). The score *reads* k fields, the combinations R[j] of the channels, and returns as many:
s above stands for s(R[j] x[j], t[j]). Usually k = 1 and the score reads channel 0. P and N are c x c blocks, Q is c x k. Tables
are float64, with one entry per shell of the chain's basis; the usual scalar tables have one shell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .bases import Basis, Identity, Pixelwise
from .grid import TimeGrid


@dataclass(frozen=True)
class Chain:
    """A chain of J affine steps with a score, given by its tables; K shells, c channels, k fields read by the score.

    Tables are P [J, K, c, c], Q [J, K, c, k] and N [J, K, c, c]. Shorter forms are completed: P [J] has one number a step, [J, K]
    one a shell, [J, c, c] one block a step; likewise N and, for k = 1, Q. N may be left out when nothing is random. Tables with
    several shells belong to `basis`, by default to the entries of the state themselves, so that [J, d] has one number per entry.

    t [J+1] are the times at which the score is called; it receives them in the precision of the states. `alpha` and `sigma`
    [J+1] (for k > 1: [J+1, k], and a factor [J+1, k, k]) are signal and noise of what the score reads: solvers measure the
    denoised estimate with them, and references need them. `edges` are block boundaries (default: one block), `M` [J, K, c]
    multiplies the mean field of the reference, and `R` [J, k, c] says what the score reads (default: the first k channels). The
    first state is distributed as signal x_0 + spread xi, with `signal` [c] and `spread` [c, c] (default: alpha and sigma in
    channel 0). Raises ValueError, with every mistake at once, for tables that do not fit together.
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
    R: Tensor | None = None
    signal: Tensor | None = None
    spread: Tensor | None = None

    def __post_init__(self) -> None:
        t = torch.as_tensor(self.t, dtype=torch.float64)
        P = _blocks(torch.as_tensor(self.P, dtype=torch.float64))
        channels = P.shape[-1]
        N = torch.zeros_like(P) if self.N is None else _blocks(torch.as_tensor(self.N, dtype=torch.float64))
        Q = _columns(torch.as_tensor(self.Q, dtype=torch.float64), channels)
        M = torch.zeros_like(Q[..., 0]) if self.M is None else _shifts(torch.as_tensor(self.M, dtype=torch.float64), channels)
        first_channels = torch.eye(Q.shape[-1], channels, dtype=torch.float64).expand(len(t) - 1, -1, -1)
        R = first_channels if self.R is None else torch.as_tensor(self.R, dtype=torch.float64)
        optional = (self.alpha, self.sigma, self.signal, self.spread)
        rest = [None if a is None else torch.as_tensor(a, dtype=torch.float64) for a in optional]
        names = ("t", "P", "Q", "N", "M", "R", "alpha", "sigma", "signal", "spread")
        for name, value in zip(names, (t, P, Q, N, M, R, *rest), strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "edges", tuple(self.edges) or (0, len(t) - 1))
        if self.basis is None and self._shells() > 1:
            object.__setattr__(self, "basis", Pixelwise((self._shells(),)))
        self._check()

    def _shells(self) -> int:
        return max(int(table.shape[1]) for table in (self.P, self.Q, self.noise, self.shift))

    def _check(self) -> None:
        J = len(self.t) - 1
        mistakes = [
            f"{name} has {len(table)} steps, the {len(self.t)} times make {J}"
            for name, table in (("P", self.P), ("Q", self.Q), ("N", self.noise), ("M", self.shift), ("R", self.rows))
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
        shells = self._shells()
        mistakes += [
            f"{name} has {table.shape[1]} shells or entries, other tables {shells}"
            for name, table in (("P", self.P), ("Q", self.Q), ("N", self.noise), ("M", self.shift))
            if table.shape[1] not in (1, shells)
        ]
        if shells > 1 and (self.basis is None or self.basis.num_shells != shells):
            own = 0 if self.basis is None else self.basis.num_shells
            mistakes.append(f"tables with {shells} shells need a basis with as many, and the chain's has {own}")
        if (self.alpha is None) != (self.sigma is None):
            mistakes.append("give alpha and sigma together")
        if self.rows.shape[1:] != (self.reads, self.channels):
            mistakes.append(
                f"R is {list(self.rows.shape)}; a score of {self.reads} field(s) needs [{J}, {self.reads}, {self.channels}]"
            )
        if mistakes:
            raise ValueError("chain: " + "; ".join(mistakes))

    @property
    def noise(self) -> Tensor:
        """The table N, zero for a chain without randomness."""
        assert self.N is not None
        return self.N

    @property
    def shift(self) -> Tensor:
        """The table M, zero for a chain that is not about a mean field."""
        assert self.M is not None
        return self.M

    @property
    def rows(self) -> Tensor:
        """The table R [J, k, c] of what the score reads."""
        assert self.R is not None
        return self.R

    @property
    def num_steps(self) -> int:
        return len(self.t) - 1

    @property
    def point_counts(self) -> tuple[int, ...]:
        """Numbers of points that the first sweeps to a tolerance evaluate: all points, from the first sweep on."""
        return (self.num_steps,)

    @property
    def sequential_rounds(self) -> int:
        """Number of sequential calls of the score (sequential NFE) when the chain is solved step by step."""
        return self.num_steps

    @property
    def needs_reference(self) -> bool:
        """Whether the tables are valid only in the basis, or about the mean, of one reference."""
        return not isinstance(self.basis, Identity | None) or bool((self.shift != 0).any())

    @property
    def knows_levels(self) -> bool:
        """Whether signal and noise of what the score reads are known."""
        return self.sigma is not None

    @property
    def channels(self) -> int:
        return int(self.P.shape[-1])

    @property
    def reads(self) -> int:
        """The number k of fields that the score reads and returns."""
        return int(self.Q.shape[-1])

    @cached_property
    def plain(self) -> bool:
        """Whether the score reads the first channels themselves, at every point."""
        return bool((self.rows == torch.eye(self.reads, self.channels, dtype=torch.float64)).all())

    @cached_property
    def levels(self) -> tuple[Tensor, Tensor]:
        """Signal [J+1, k] and noise covariance [J+1, k, k] of what the score reads; ValueError without alpha and sigma."""
        if self.alpha is None or self.sigma is None:
            raise ValueError(
                "the chain does not know its noise levels, which a reference, linear = 'denoised' and solver = 'newton' need: "
                "give it alpha and sigma, the signal and the noise at every point"
            )
        factor = self.sigma.reshape(len(self.t), self.reads, self.reads)
        return self.alpha.reshape(len(self.t), self.reads), factor @ factor.mT

    @cached_property
    def ratio(self) -> Tensor:
        """Ratio of noise to signal of what the score reads, [J+1]: (e^T H e)^-1/2 for signal e and noise of precision H."""
        signal, covariance = self.levels
        # at a last point without noise nothing can be inverted; the ratio there is zero
        return 1 / torch.sqrt((signal * torch.linalg.solve_ex(covariance, signal)[0]).sum(-1))

    @cached_property
    def estimate(self) -> tuple[Tensor, Tensor, Tensor]:
        """The denoised estimate as a combination of state and score: unit [J], a [J, k] and b [J, k].

        At point j, unit[j] times the estimate is a[j] . x + b[j] . s, scaled so that a[j, 0] = 1. This is Tweedie's formula for
        what the score reads, E[x_0 | x] = e^T (H x + s) / (e^T H e); for k = 1 it is (x + sigma^2 s) / alpha. Without noise
        levels the first field itself takes the place of the estimate.
        """
        if self.alpha is None:
            ones, first = torch.ones(self.num_steps, dtype=torch.float64), torch.eye(self.reads, dtype=torch.float64)[0]
            return ones, first.expand(self.num_steps, -1), torch.zeros(self.num_steps, self.reads, dtype=torch.float64)
        signal, covariance = (level[:-1] for level in self.levels)
        pulled = torch.linalg.solve(covariance, signal)
        lead = pulled[:, :1]
        return (signal * pulled).sum(-1) / lead[:, 0], pulled / lead, signal / lead

    def entry(self) -> tuple[Tensor, Tensor]:
        """Return signal [c] and spread [c, c] of the first state."""
        if self.signal is not None and self.spread is not None:
            return self.signal, self.spread
        first = torch.eye(self.channels, dtype=torch.float64)[0]
        assert self.alpha is not None and self.sigma is not None
        return first * self.alpha.reshape(len(self.t), -1)[0, 0], torch.diag(first) * self.sigma.reshape(len(self.t), -1)[0, 0]

    def reading(self, j: int | Tensor, z: Tensor) -> Tensor:
        """Return what the score reads of states [..., c, n] at point j, [..., k, n]; a view where it reads the first channels.

        Given several points [rows], every row of z belongs to one.
        """
        if self.plain:
            return z[..., : self.reads, :]
        return apply(self.rows[j].to(z.dtype).to(z.device).unsqueeze(-3), z)

    @cached_property
    def stochastic(self) -> bool:
        """Whether any step is random; computed once, since every step needs it."""
        return bool((self.noise != 0).any())

    @cached_property
    def drawn(self) -> int:
        """Number of fields that a step draws: those up to the last channel of xi that enters some step, and at least one."""
        entering = (self.noise != 0).flatten(0, 2).any(0).nonzero()
        return int(entering.max()) + 1 if len(entering) else 1

    @property
    def grid(self) -> TimeGrid:
        """The blocks of the chain on a clock of step numbers, since a corrector has the same time at every point."""
        clock = -torch.arange(len(self.t), dtype=torch.float64)
        return TimeGrid(clock, self.edges)

    def working_basis(self, size: int, basis: Basis | None = None) -> Basis:
        """Return the basis that sweeps work in: the chain's own, else that of the linear part, else the `size` entries."""
        return self.basis or basis or Identity((size,))


def affine(out: Tensor, base: Tensor | None, block: Tensor, z: Tensor) -> Tensor:
    """Compute out = base + block z for blocks [..., n or 1, c, k] and coordinates z [..., k, n], elementwise in n; out is not z.

    The result is written into `out` without temporaries, since sweeps over large fields are bound by memory, not by arithmetic.
    """
    for row in range(block.shape[-2]):
        if base is None:
            torch.mul(block[..., row, 0], z[..., 0, :], out=out[..., row, :])
        else:
            torch.addcmul(base[..., row, :], block[..., row, 0], z[..., 0, :], out=out[..., row, :])
        for k in range(1, z.shape[-2]):
            out[..., row, :].addcmul_(block[..., row, k], z[..., k, :])
    return out


def apply(block: Tensor, z: Tensor) -> Tensor:
    """Apply blocks [..., n or 1, c, k] to coordinates [..., k, n]; returns [..., c, n]."""
    return affine(z.new_empty(*z.shape[:-2], block.shape[-2], z.shape[-1]), None, block, z)


def add_lifted(out: Tensor, block: Tensor, fields: Tensor) -> Tensor:
    """Add blocks [n or 1, c, k] times fields of coordinates [..., k, n] to `out` [..., c, n], in place."""
    return affine(out, out, block, fields)


def expand(basis: Basis, table: Tensor, like: Tensor) -> Tensor:
    """Expand the table of one step from shells, [K, ...], to coordinates, [n or 1, ...], in the precision of `like`."""
    return expand_rows(basis, table[None], like)[0]


def expand_rows(basis: Basis, tables: Tensor, like: Tensor) -> Tensor:
    """Expand the tables of several steps from shells, [rows, K, ...], to coordinates, [rows, n or 1, ...]."""
    moved = tables.to(like.dtype).to(like.device).movedim(1, -1)
    full = moved if moved.shape[-1] == 1 else basis.expand(moved)
    return full.movedim(-1, 1)


def _blocks(table: Tensor) -> Tensor:
    """Complete a table [J], [J, K] or [J, c, c] to [J, K, c, c]."""
    if table.ndim == 1:
        return table[:, None, None, None]
    if table.ndim == 2:
        return table[:, :, None, None]
    return table[:, None] if table.ndim == 3 else table


def _columns(table: Tensor, channels: int) -> Tensor:
    """Complete [J], [J, K] (one channel), [J, c] (several) or [J, K, c] to [J, K, c, k] with k = 1; four dimensions stay."""
    return table if table.ndim == 4 else _shifts(table, channels)[..., None]


def _shifts(table: Tensor, channels: int) -> Tensor:
    """Complete [J], [J, K] (one channel) or [J, c] (several) to [J, K, c]."""
    if table.ndim == 1:
        return table[:, None, None].expand(-1, 1, channels) if channels == 1 else table[:, None, None]
    if table.ndim == 2:
        return table[:, :, None] if channels == 1 else table[:, None]
    return table
