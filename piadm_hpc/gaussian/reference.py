"""A Gaussian reference for the data, diagonal in a basis: its score, its flow, and the Jacobian that solvers are built on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..theory.bases import EOF, Basis, Identity
from ..theory.process import Process


@dataclass(frozen=True)
class Smoothness:
    """How the remainder g of a model's probability flow, what the Gaussian does not explain, varies along the flow.

    `gram` [N, N] holds the mean products g_i . g_j / d at the N Chebyshev points of log-SNR from `low` to `high`, of remainders
    in units of the data's scale, as they move the end of the flow; with `whitened`, of those in whitened coordinates, as older
    files hold them. Raises ValueError for an empty range or a matrix that cannot be one of products.
    """

    low: float
    high: float
    gram: Tensor
    whitened: bool = False

    def __post_init__(self) -> None:
        square = self.gram.ndim == 2 and len(set(self.gram.shape)) == 1 and len(self.gram) >= 4
        if not (
            self.low < self.high and square and bool(torch.isfinite(self.gram).all()) and bool((self.gram.diag() >= 0).all())
        ):
            raise ValueError("smoothness: a range low < high and a matrix [N, N] of mean products, N at least 4, are needed")


@dataclass(frozen=True)
class Response:
    """The mean Jacobian diagonal of a model's denoised estimate: `gain` [L, num_shells] at log-SNR `snr` [L].

    The gain is alpha dD/dx, between 0 (the estimate does not follow a change of the state) and 1 (it follows fully); for a
    Gaussian of variance lambda it is lambda / (lambda + ratio^2) with ratio = sigma / alpha. It is interpolated between levels
    and constant beyond them. `smoothness` is that of the same model. Raises ValueError for levels that do not increase and for
    gains outside [0, 1].
    """

    snr: Tensor
    gain: Tensor
    smoothness: Smoothness | None = None

    def __post_init__(self) -> None:
        sound = bool((self.snr.diff() > 0).all()) and bool(((self.gain >= 0) & (self.gain <= 1)).all())
        if self.snr.ndim != 1 or self.gain.ndim != 2 or len(self.gain) != len(self.snr) or not sound:
            raise ValueError("response: levels must increase, with a row of gains between 0 and 1 for each")

    def at(self, ratio: Tensor) -> Tensor:
        """Return gains [*, num_shells], float64, at ratios of noise to signal [*]."""
        snr = (-2 * torch.log(ratio.to(torch.float64))).clamp(self.snr[0], self.snr[-1])
        above = torch.searchsorted(self.snr, snr).clamp(1, len(self.snr) - 1)
        share = ((snr - self.snr[above - 1]) / (self.snr[above] - self.snr[above - 1]))[..., None]
        return torch.lerp(self.gain[above - 1], self.gain[above], share)


@dataclass(frozen=True)
class GaussianReference:
    """The Gaussian N(mean, U diag(spectrum) U^T): a mean [d], an orthonormal basis, and a variance per shell [num_shells].

    All its marginals are closed form: at time t they have mean alpha m and variance v = alpha^2 lambda + sigma^2 per shell.
    `response` is the probed response of a model in the same basis, where there is one; sweeps are built on it, and no result
    depends on it. Raises ValueError for shapes that do not fit, and for variances that are negative or not finite.
    """

    mean: Tensor
    basis: Basis
    spectrum: Tensor
    response: Response | None = None

    def __post_init__(self) -> None:
        d = _size(self.basis.event_shape)
        if self.mean.shape != (d,) or self.spectrum.shape != (self.basis.num_shells,):
            raise ValueError(
                f"reference: mean {tuple(self.mean.shape)} and spectrum {tuple(self.spectrum.shape)} must have the "
                f"basis's sizes, ({d},) and ({self.basis.num_shells},)"
            )
        if self.response is not None and self.response.gain.shape[1] != self.basis.num_shells:
            raise ValueError(
                f"reference: a response of {self.response.gain.shape[1]} shells for a basis of {self.basis.num_shells}"
            )
        if not bool(torch.isfinite(self.spectrum).all()) or bool((self.spectrum < 0).any()):
            raise ValueError("reference: variances must be finite and not negative")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.basis.event_shape

    @property
    def smoothness(self) -> Smoothness | None:
        """How the remainder of the probed model varies along its flow, where that was measured."""
        return None if self.response is None else self.response.smoothness

    def to(self, device: torch.device | str, dtype: torch.dtype) -> GaussianReference:
        """Return the reference on another device, its mean and basis in another precision; the same one every time."""
        device = torch.device(device)
        if (device, dtype) not in self._copies:
            basis = self.basis.to(device, dtype)
            copy = GaussianReference(self.mean.to(device, dtype), basis, self.spectrum.to(device), self.response)
            self._copies[device, dtype] = copy
        return self._copies[device, dtype]

    @cached_property
    def _copies(self) -> dict[tuple[torch.device, torch.dtype], GaussianReference]:
        """What `to` has returned; to build a basis takes longer than a sweep."""
        return {}

    def variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the variance v = alpha^2 lambda + sigma^2 per shell, [*, num_shells] float64, for alpha, sigma [*]."""
        spectrum = self.spectrum.to(torch.float64)
        return alpha[..., None] ** 2 * spectrum + sigma[..., None] ** 2

    def jacobian(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the Jacobian J = -1/v of the score per shell, [*, num_shells] float64, for alpha, sigma [*]."""
        return -1 / self.variance(alpha, sigma)

    def marginal(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return the covariance lambda e e^T + S per shell of e x_0 + noise, [*, num_shells, c, c], for e [*, c], S [*, c, c]."""
        outer = signal[..., :, None] * signal[..., None, :]
        return self.spectrum.to(torch.float64).cpu()[:, None, None] * outer[..., None, :, :] + noise[..., None, :, :]

    def score(self, process: Process, x: Tensor, t: Tensor) -> Tensor:
        """Return the score of the marginals at states x [rows, *event] and times t [rows]."""
        alpha, sigma = levels(process, t)
        return self._apply(self.jacobian(alpha, sigma), self._deviation(alpha, x)).reshape(x.shape)

    def denoise(self, process: Process, x: Tensor, t: Tensor) -> Tensor:
        """Return the Wiener filter's estimate E[x_0 | x_t] for states x [rows, *event] at times t [rows]."""
        alpha, sigma = levels(process, t)
        gain = alpha[:, None] * self.spectrum.to(torch.float64) / self.variance(alpha, sigma)
        return (self.mean + self._apply(gain, self._deviation(alpha, x))).reshape(x.shape)

    def flow(self, process: Process, x: Tensor, t_from: Tensor, t_to: Tensor) -> Tensor:
        """Carry states x [rows, *event] along the probability flow, in closed form, from times t_from to t_to [rows]."""
        (alpha, sigma), (alpha_to, sigma_to) = levels(process, t_from), levels(process, t_to)
        gain = torch.sqrt(self.variance(alpha_to, sigma_to) / self.variance(alpha, sigma))
        moved = self._apply(gain, self._deviation(alpha, x))
        return (alpha_to[:, None].to(x.dtype) * self.mean + moved).reshape(x.shape)

    def draw(self, white: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return samples of the marginal at signal and noise levels alpha, sigma (scalars) from white noise [rows, *event]."""
        return self.draw_state(white[:, None], alpha.reshape(1), sigma.reshape(1, 1))[:, 0]

    def draw_state(self, white: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
        """Return samples of signal x_0 + spread xi, for signal [c] and spread [c, c], from white noise [rows, c, *event]."""
        root = lower_root(self.marginal(signal, spread @ spread.mT))
        gains = self.basis.expand(root.movedim(0, -1).to(white.dtype).to(white.device))
        drawn = self.basis.synthesise((gains * self.basis.analyse(white.flatten(2))[:, None]).sum(-2))
        drawn = signal.to(drawn)[:, None] * self.mean + drawn
        return drawn.reshape(white.shape)

    def _deviation(self, alpha: Tensor, x: Tensor) -> Tensor:
        return x.flatten(1) - alpha[:, None].to(x.dtype) * self.mean

    def _apply(self, gain: Tensor, flat: Tensor) -> Tensor:
        gains = self.basis.expand(gain.to(flat.dtype).to(flat.device))
        return self.basis.synthesise(gains * self.basis.analyse(flat))


def isotropic(event_shape: tuple[int, ...], variance: float = 1.0) -> GaussianReference:
    """Return the reference N(0, variance I), for models about which nothing else is known.

    `variance` is in the units of the states. Sweeps profit while it lies near the geometric mean of the data's spectrum; some
    hundred times above it they are better off without a reference. Raises ValueError for a variance that is negative.
    """
    basis = Identity(event_shape)
    return GaussianReference(torch.zeros(basis.num_coords), basis, torch.tensor([variance], dtype=torch.float64))


def from_fields(fields: Tensor, basis: Basis) -> GaussianReference:
    """Fit a reference in a given basis: the mean of samples [n, *event], and their variance per shell."""
    flat = fields.flatten(1)
    mean = flat.mean(0)
    energy = basis.energy(basis.analyse(flat - mean)) * len(flat) / max(1, len(flat) - 1)
    return GaussianReference(mean, basis, energy.to(torch.float64))


def eof(fields: Tensor, rank: int) -> GaussianReference:
    """Fit a reference of the leading `rank` EOFs of samples [n, *event], with one variance for all other directions.

    Raises ValueError for a rank that is not below the number of samples and the size of a state.
    """
    if not 1 <= rank < min(len(fields), fields[0].numel()):
        raise ValueError(f"rank must be between 1 and {min(len(fields), fields[0].numel()) - 1}, got {rank}")
    flat = fields.flatten(1)
    centred = flat - flat.mean(0)
    modes = torch.linalg.svd(centred.to(torch.float64), full_matrices=False).Vh[:rank].T.to(fields.dtype).contiguous()
    return from_fields(fields, EOF(modes, fields.shape[1:]))


def lower_root(covariance: Tensor) -> Tensor:
    """Return the lower triangular L with L L^T = covariance [..., c, c]; directions without variance give columns of zeros."""
    size, root = covariance.shape[-1], torch.zeros_like(covariance)
    for k in range(size):
        rest = covariance[..., :, k] - (root * root[..., k : k + 1, :]).sum(-1)
        pivot = torch.sqrt(rest[..., k].clamp(min=0))
        for i in range(k, size):
            root[..., i, k] = torch.where(pivot > 0, rest[..., i] / pivot, 0.0)
    return root


def levels(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return signal and noise [rows] in float64 at times t [rows]."""
    t = t.to(torch.float64)
    return process.alpha(t), process.sigma(t)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
