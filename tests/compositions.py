"""Integrators of phase space written out block after block, as their authors describe them: oracles for the package's tables.

States are z = (x, m), [2, ...]; `score(z, tau)` has the same shape, and `stir(z, root)` adds root times fresh white noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from piadm_hpc.models.analytic import GaussianMixture
from piadm_hpc.theory.phase import PhaseSpace

F64 = torch.float64
Score = Callable[[Tensor, float], Tensor]
Stir = Callable[[Tensor, Tensor], Tensor]


def mul(matrix: Tensor, z: Tensor) -> Tensor:
    """Apply a matrix to the leading dimension of z."""
    product: Tensor = torch.tensordot(matrix, z, dims=1)
    return product


def fine_rule(high: float, low: float, nodes: int = 160) -> tuple[Tensor, Tensor]:
    """Return times and weights of Gauss's rule in the square root of time."""
    points, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
    middle, half = (high**0.5 + low**0.5) / 2, (high**0.5 - low**0.5) / 2
    u = middle + half * points
    return u**2, weights * half * 2 * u


def diag(a: float, b: float) -> Tensor:
    """Return the diagonal matrix of two numbers."""
    return torch.diag(torch.tensor([a, b], dtype=F64))


class Hand:
    """All methods on one phase space; `now` and `after` are the times at which the present step begins and ends."""

    def __init__(self, phase: PhaseSpace, score: Score, stir: Stir, lam: float = 0.0, lam_s: float = 1.0, cond: str = "now"):
        self.p, self.score, self.stir, self.lam, self.lam_s, self.cond = phase, score, stir, lam, lam_s, cond

    def run(self, name: str, z: Tensor, tau: Tensor) -> Tensor:
        """Take the method's steps over the times tau [J+1]."""
        self.memory: tuple[float, Tensor] | None = None
        self.root: Tensor
        self.start = float(tau[0])
        self.angle = 0.0
        step = getattr(self, name.replace("-", "_"))
        for now, after in zip(tau.tolist(), tau.tolist()[1:], strict=False):
            z = step(z, now, after, now - after)
        return z

    def when(self, now: float, after: float, cond: str | None = None) -> float:
        h = now - after
        times = {"now": now, "middle": now - h / 2, "next": after, "ahead": min(now + h, self.start)}
        return times[cond or self.cond]

    # blocks -------------------------------------------------------------------------------------------------------------

    def B(self, z: Tensor, s: Tensor, h: float, k: int = 1) -> Tensor:
        p, (x, m) = self.p, z
        return torch.stack([x, m + h * p.beta / 2 * (x + k * p.nu * m + k * p.mass * p.nu * s[1])])

    def A(self, z: Tensor, s: Tensor, h: float, k: int = 1) -> Tensor:
        p, (x, m) = self.p, z
        return torch.stack([x + h * p.beta / 2 * (k * p.gamma * x - m / p.mass + k * p.gamma * s[0]), m])

    def O(self, z: Tensor, h: float) -> Tensor:  # noqa: E743, the name of the block
        p = self.p
        g, n = h * p.beta * p.gamma, h * p.beta * p.nu
        decay = torch.exp(-torch.tensor([g, n], dtype=F64) / 2)
        added = torch.sqrt(-torch.expm1(-torch.tensor([self.lam_s * g, n], dtype=F64)) * torch.tensor([1, p.mass], dtype=F64))
        return self.stir(mul(torch.diag(decay), z), torch.diag(added))

    def conjugate(
        self, z: Tensor, s: Tensor, at: float, high: float, low: float, F: Tensor, GG: Tensor, B: Tensor, turned: bool = False
    ) -> Tensor:
        """Return e^{(B-F)h} (I - hB) z - W eps with eps = -root^T s; W by a very fine Gauss rule in the square root of time."""
        times, w = fine_rule(high, low)
        carry = torch.linalg.matrix_exp((B - F) * (times - low)[:, None, None])
        root = self.roots(times, high) if turned else torch.linalg.cholesky(self.p.covariance(times))
        W = (w[:, None, None] * (carry @ (GG / 2) @ torch.linalg.inv(root).mT)).sum(0)
        h = high - low
        eps = -mul(torch.linalg.cholesky(self.p.covariance(torch.tensor(at, dtype=F64))).T, s)
        return mul(torch.linalg.matrix_exp((B - F) * h) @ (torch.eye(2, dtype=F64) - h * B), z) - mul(W, eps)

    def roots(self, times: Tensor, high: float) -> Tensor:
        """Return the transported roots that are the Cholesky factor at `high`, by scipy's integrator."""
        from scipy.integrate import solve_ivp

        F, GG = self.p.drift.numpy(), self.p.diffusion.numpy()

        def rate(t: float, r: np.ndarray) -> np.ndarray:
            inverse = torch.linalg.inv(self.p.covariance(torch.tensor(t, dtype=F64))).numpy()
            change: np.ndarray = (F + GG @ inverse / 2) @ r.reshape(2, 2)
            return change.ravel()

        first = torch.linalg.cholesky(self.p.covariance(torch.tensor(high, dtype=F64))).numpy().ravel()
        found = solve_ivp(rate, (high, float(times.min())), first, rtol=1e-13, atol=1e-15, method="DOP853", dense_output=True)
        return torch.from_numpy(np.stack([found.sol(float(t)).reshape(2, 2) for t in times]))

    # deterministic ------------------------------------------------------------------------------------------------------

    def psld_euler(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        return z + h * (-mul(self.p.drift, z) + mul(self.p.diffusion, self.score(z, now)) / 2)

    def lambda_ddim_i(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        return self.whole(z, now, after, self.lam * torch.eye(2, dtype=F64), False)

    def lambda_ddim_ii(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        return self.whole(z, now, after, self.lam * torch.ones(2, 2, dtype=F64), False)

    def lambda_ddim_i_r(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        return self.whole(z, now, after, self.lam * torch.eye(2, dtype=F64), True)

    def lambda_ddim_ii_r(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        return self.whole(z, now, after, self.lam * torch.ones(2, 2, dtype=F64), True)

    def whole(self, z: Tensor, now: float, after: float, B: Tensor, turned: bool) -> Tensor:
        return self.conjugate(z, self.score(z, now), now, now, after, self.p.drift, self.p.diffusion, B, turned)

    def gddim(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        """Take the step z' = E^-1 z + (R' - E^-1 R) eps, which needs no quadrature."""
        low, high = self.roots(torch.tensor([after, now], dtype=F64), now)
        back = torch.linalg.matrix_exp(-self.p.drift * h)
        return mul(back, z) - mul((low - back @ high) @ high.T, self.score(z, now))

    def nse(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        z = self.B(z, self.score(z, now), h)
        return self.A(z, self.score(z, now), h)

    def rse(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        s = self.score(z, now)
        return self.A(self.B(z, s, h), s, h)

    def nvv(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        z = self.B(z, self.score(z, now), h / 2)
        z = self.A(z, self.score(z, now), h)
        return self.B(z, self.score(z, now), h / 2)

    def rvv(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        s = self.score(z, now)
        z = self.A(self.B(z, s, h / 2), s, h)
        return self.B(z, self.score(z, after), h / 2)

    def rvv_x(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        p, s, (x, m) = self.p, self.score(z, now), z
        half = m + h * p.beta / 4 * (x + p.nu * m + p.mass * p.nu * s[1])
        x = x + h * p.beta / 2 * (p.gamma * x - half / p.mass + p.gamma * s[0])
        ahead = 2 * half - m
        s = self.score(torch.stack([x, ahead]), after)
        return torch.stack([x, half + h * p.beta / 4 * (x + p.nu * ahead + p.mass * p.nu * s[1])])

    def cse(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        s = self.score(z, now)
        return self.Ac(self.Bc(z, s, now, now, after), s, now, now, after)

    def cvv(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        s, middle = self.score(z, now), now - h / 2
        z = self.Ac(self.Bc(z, s, now, now, middle), s, now, now, after)
        return self.Bc(z, self.score(z, after), after, middle, after)

    def Bc(self, z: Tensor, s: Tensor, at: float, high: float, low: float, k: int = 1) -> Tensor:
        p = self.p
        F = p.beta / 2 * torch.tensor([[0.0, 0], [-1, -k * p.nu]], dtype=F64)
        B = self.lam * torch.tensor([[0.0, 0], [1, 1]], dtype=F64)
        return self.conjugate(z, s, at, high, low, F, k * p.beta * diag(0, p.mass * p.nu), B)

    def Ac(self, z: Tensor, s: Tensor, at: float, high: float, low: float, k: int = 1) -> Tensor:
        p = self.p
        F = p.beta / 2 * torch.tensor([[-k * p.gamma, 1 / p.mass], [0, 0]], dtype=F64)
        B = self.lam * torch.tensor([[1.0, 1], [0, 0]], dtype=F64)
        return self.conjugate(z, s, at, high, low, F, k * p.beta * diag(p.gamma, 0), B)

    # stochastic ---------------------------------------------------------------------------------------------------------

    def psld_em(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        z = z + h * (-mul(self.p.drift, z) + mul(self.p.diffusion, self.score(z, now)))
        return self.stir(z, torch.sqrt(h * self.p.diffusion))

    def sscs(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        p = self.p
        rotated = p.beta / 2 * torch.tensor([[-p.gamma, -1 / p.mass], [1, -p.nu]], dtype=F64)
        flow = torch.linalg.matrix_exp(rotated * h / 2)
        root = torch.linalg.cholesky(p.stationary - flow @ p.stationary @ flow.T)
        z = self.stir(mul(flow, z), root)
        s = self.score(z, self.when(now, after))
        z = z + h * p.beta * torch.stack([p.gamma * (z[0] + s[0]), p.nu * z[1] + p.mass * p.nu * s[1]])
        return self.stir(mul(flow, z), root)

    def noba(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        z = self.O(z, h)
        z = self.B(z, self.score(z, now), h, 2)
        return self.A(z, self.score(z, now), h, 2)

    def roba(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        z = self.O(z, h)
        s = self.score(z, self.when(now, after))
        return self.A(self.B(z, s, h, 2), s, h, 2)

    def nbaoab(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        z = self.B(z, self.score(z, now), h / 2, 2)
        z = self.O(self.A(z, self.score(z, now), h / 2, 2), h)
        z = self.A(z, self.score(z, now), h / 2, 2)
        return self.B(z, self.score(z, now), h / 2, 2)

    def rbaoab(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        s = self.score(z, now)
        z = self.O(self.A(self.B(z, s, h / 2, 2), s, h / 2, 2), h)
        s = self.score(z, self.when(now, after))
        return self.B(self.A(z, s, h / 2, 2), s, h / 2, 2)

    def nobab(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        z = self.O(z, h)
        z = self.B(z, self.score(z, now), h / 2, 2)
        z = self.A(z, self.score(z, now), h, 2)
        return self.B(z, self.score(z, now), h / 2, 2)

    def robab(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        ahead = self.cond == "ahead"
        z = self.O(z, h)
        s = self.score(z, self.when(now, after, "ahead" if ahead else "now"))
        z = self.A(self.B(z, s, h / 2, 2), s, h, 2)
        return self.B(z, self.score(z, self.when(now, after, "next" if ahead else None)), h / 2, 2)

    def coba(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        z, at = self.O(z, h), self.when(now, after)
        s = self.score(z, at)
        return self.Ac(self.Bc(z, s, at, now, after, 2), s, at, now, after, 2)

    def gddim_ab2(self, z: Tensor, now: float, after: float, h: float) -> Tensor:
        """Extrapolate eps from two steps, with roots turned by the angle that they have turned since the first time."""
        p = self.p
        times, w = fine_rule(now, after)
        # from the factor at `now` to the root that began as the factor at the first time
        kernel = torch.linalg.cholesky(p.covariance(torch.tensor(now, dtype=F64)))
        turn = torch.eye(2, dtype=F64) if self.memory is None else torch.linalg.solve(kernel, self.root)
        *inner, low, high = self.roots(torch.cat([times, torch.tensor([after, now], dtype=F64)]), now)
        roots, low, high = torch.stack(inner) @ turn, low @ turn, high @ turn
        back = torch.linalg.matrix_exp(-p.drift * h)
        eps = -mul(high.T, self.score(z, now))
        moved = mul(back, z) + mul(low - back @ high, eps)
        if self.memory is not None:
            carry = torch.linalg.matrix_exp(-p.drift * (times - after)[:, None, None])
            pushed = carry @ (p.diffusion / 2) @ torch.linalg.inv(roots).mT
            W = -((w * (times - now))[:, None, None] * pushed).sum(0)
            moved = moved + mul(W, (eps - self.memory[1]) / (now - self.memory[0]))
        self.memory, self.root = (now, eps), low
        return moved


class PhaseMixture:
    """The score s(z, tau) of a Gaussian mixture in phase space, computed component by component; z is [2, samples, d]."""

    def __init__(self, phase: PhaseSpace, target: GaussianMixture):
        self.p, self.target = phase, target

    def at(self, z: Tensor, tau: float) -> Tensor:
        time = torch.tensor(tau, dtype=F64)
        e, logs, slopes = self.p.signal(time), [], []
        for weight, mean, variances in zip(self.target.weights, self.target.means, self.target.variances, strict=True):
            away = z - e[:, None, None] * mean
            H = torch.linalg.inv(torch.stack([self.p.covariance(time, float(v)) for v in variances]))
            slope = -torch.einsum("dik,knd->ind", H, away)
            logs.append(torch.log(weight) + 0.5 * (away * slope).sum((0, 2)) + 0.5 * torch.logdet(H).sum())
            slopes.append(slope)
        share = torch.softmax(torch.stack(logs), 0)
        return torch.einsum("cn,cind->ind", share, torch.stack(slopes))

    def __call__(self, z: Tensor, tau: Tensor) -> Tensor:
        """Return the score of rows [rows, 2, d] at their own times [rows]."""
        rows = [self.at(row[:, None], float(t))[:, 0] for row, t in zip(z, tau, strict=True)]
        return torch.stack(rows)
