"""Noising processes x_t = alpha(t) x_0 + sigma(t) eps, and the clock that all of them share.

Every process is an Ornstein-Uhlenbeck process up to a change of units: y = x / r with r = sqrt(alpha^2 + sigma^2) has
alpha_y = exp(-theta/2), sigma_y^2 = 1 - exp(-theta) at the *forward time* theta = log(1 + sigma^2 / alpha^2).
Integrators are written once, in (y, theta), and rescaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .phase import PhaseSpace

HALVINGS = 80  # of an interval of times, beyond the rounding of float64
SLACK = 1e-6  # of rounding, relative to the number of indices, at both ends of a table


class Process(Protocol):
    """A noising process: the signal and the noise level at time t, and the time at which the forward time is theta."""

    @property
    def fields(self) -> int:
        """The number of fields that a network of the process describes: 1, or 2 for position and momentum."""
        ...

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal level at times t [*]."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level at times t [*]."""
        ...

    def time(self, theta: Tensor) -> Tensor:
        """Return the times at which the forward time is theta [*]."""
        ...


@dataclass(frozen=True)
class OU:
    """The Ornstein-Uhlenbeck process of Chen et al. 2024, dx = -x/2 dt + dw, for which theta = t."""

    fields: ClassVar[int] = 1

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-t / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-t))

    def time(self, theta: Tensor) -> Tensor:
        return theta


@dataclass(frozen=True)
class VP:
    """The variance-preserving process with beta(t) = beta_min + t (beta_max - beta_min) on [0, 1] (Song et al. 2021, eq. 32)."""

    fields: ClassVar[int] = 1
    beta_min: float = 0.1
    beta_max: float = 20.0

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def time(self, theta: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        root = torch.sqrt(self.beta_min**2 + 2 * slope * theta)
        return 2 * theta / (self.beta_min + root)


@dataclass(frozen=True)
class VPSchedule:
    """The variance-preserving process of any schedule, given by the integral of beta from 0 to t, an increasing function.

    `horizon` is the largest time at which the integral is defined; `time` inverts it by bisection.
    """

    fields: ClassVar[int] = 1
    integral: Callable[[Tensor], Tensor]
    horizon: float

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def time(self, theta: Tensor) -> Tensor:
        return bisected(self.integral, theta, self.horizon)


@dataclass(frozen=True)
class Tabulated:
    """Variance-preserving process of a discrete schedule, given by its log-SNR at the indices 0 .. N-1.

    Time is the index. Between indices the log-SNR is interpolated linearly, so that a network trained at whole indices can
    also be called between them; with `whole`, `time` returns the nearest whole index, for networks that look indices up in a
    table. Raises ValueError for a log-SNR that does not fall from index to index, and for times outside the schedule.
    """

    fields: ClassVar[int] = 1
    log_snr: Tensor
    whole: bool = False

    def __post_init__(self) -> None:
        if self.log_snr.ndim != 1 or len(self.log_snr) < 2 or not bool((self.log_snr.diff() < 0).all()):
            raise ValueError("a discrete schedule needs a log-SNR that falls from index to index, for at least two indices")

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor, *, whole: bool = False) -> Tabulated:
        """Build the process from alpha^2 at every index, the table that DDPM's schedules are given by."""
        squared = alphas_cumprod.to(torch.float64)
        return cls(torch.log(squared) - torch.log1p(-squared), whole)

    def _at(self, t: Tensor) -> Tensor:
        table = self.log_snr.to(t)
        low = t.floor().clamp(0, len(table) - 2).long()
        return torch.lerp(table[low], table[low + 1], t - low)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(self._at(t)))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(-self._at(t)))

    def time(self, theta: Tensor) -> Tensor:
        wanted = -torch.log(torch.expm1(theta))
        table = self.log_snr.to(theta)
        low = (torch.searchsorted(-table, -wanted) - 1).clamp(0, len(table) - 2)
        t = low + (wanted - table[low]) / (table[low + 1] - table[low])
        last = len(table) - 1
        if bool((t < -SLACK * len(table)).any()) or bool((t > last + SLACK * len(table)).any()):
            raise ValueError(
                f"the schedule has indices 0 to {last}, log-SNR {float(table[0]):.3g} to {float(table[-1]):.3g}, and log-SNR "
                f"{float(wanted.max()):.3g} to {float(wanted.min()):.3g} is asked for: start later (a smaller horizon) or stop "
                "earlier (a larger delta)"
            )
        t = t.clamp(0, last)
        return t.round() if self.whole else t


@dataclass(frozen=True)
class EDM:
    """The variance-exploding process x_t = x_0 + t eps of Karras et al. 2022, whose time is the noise level."""

    fields: ClassVar[int] = 1

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time(self, theta: Tensor) -> Tensor:
        return torch.sqrt(torch.expm1(theta))


@dataclass(frozen=True)
class Flow:
    """Rectified flow (flow matching) x_t = (1 - t) x_0 + t eps, 0 < t < 1."""

    fields: ClassVar[int] = 1

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time(self, theta: Tensor) -> Tensor:
        ratio = torch.sqrt(torch.expm1(theta))
        return ratio / (1 + ratio)


@dataclass(frozen=True)
class PSLD:
    """The process of networks of position and momentum, in the time tau of their phase space (`PhaseSpace`).

    The sufficient statistic of both fields for x_0 is distributed as x_0 + ratio(tau) eps; grids, references and noise levels
    are those of this statistic. The score has two fields.
    """

    fields: ClassVar[int] = 2
    space: PhaseSpace = field(default_factory=PhaseSpace)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.space.ratio(t.cpu()).to(t.device)

    def time(self, theta: Tensor) -> Tensor:
        return self.space.time(torch.sqrt(torch.expm1(theta.cpu()))).to(theta.device)


NAMES: dict[str, Callable[..., Process]] = {
    "ou": OU,
    "vp": VP,
    "edm": EDM,
    "flow": Flow,
    "psld": lambda **parameters: PSLD(PhaseSpace(**parameters)),
}


def by_name(name: str, **parameters: float) -> Process:
    """Return the process named "ou", "vp", "edm", "flow" or "psld" with its parameters; ValueError for another name."""
    if name not in NAMES:
        raise ValueError(f"unknown process {name!r}; known are {', '.join(NAMES)}")
    return NAMES[name](**parameters)


def forward_time(process: Process, t: Tensor) -> Tensor:
    """Return theta(t) = log(1 + sigma^2 / alpha^2), the equivalent Ornstein-Uhlenbeck time, in the precision of t."""
    return torch.log1p((process.sigma(t) / process.alpha(t)) ** 2)


def bisected(increasing: Callable[[Tensor], Tensor], values: Tensor, highest: float) -> Tensor:
    """Return where an increasing function of [0, highest] has some values [*], by bisection; outside its range, the ends."""
    low, high = torch.zeros_like(values), torch.full_like(values, highest)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = increasing(middle) < values
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def radius(process: Process, t: Tensor) -> Tensor:
    """Return r(t) = sqrt(alpha^2 + sigma^2), the factor between the process and its Ornstein-Uhlenbeck form."""
    return torch.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)
