"""The stationary Gaussian of a large periodic domain whose windows look like the Gaussian of a small one.

The power of a window, tapered to its edges, is the power of the domain blurred by the taper's own. It is deconvolved by repeated
multiplication with the ratio of the wanted to the present power (Richardson 1972, Lucy 1974).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..theory.planes import PlaneWaves
from .reference import GaussianReference

F64 = torch.float64
SHARPENED = 30  # times


def stationary(reference: GaussianReference, shape: tuple[int, int]) -> GaussianReference:
    """Return the reference of a periodic domain of `shape` whose windows have mean and spectrum of `reference` [rows, columns].

    Correlations beyond the size of a window are unknown, and decay as smoothly as the window allows. Raises ValueError for a
    domain smaller than the window.
    """
    rows, columns = reference.event_shape
    if shape[0] < rows or shape[1] < columns:
        raise ValueError(f"a domain of {shape[0]} x {shape[1]} points is smaller than a window of {rows} x {columns}")
    taper = torch.hann_window(rows, periodic=False, dtype=F64)[:, None] * torch.hann_window(columns, periodic=False, dtype=F64)
    taper = taper / taper.square().sum().sqrt()
    wanted = _power_of_windows(reference, taper, shape)
    blur = torch.fft.rfft2(torch.fft.fft2(taper, s=shape).abs().square() / (shape[0] * shape[1]))
    power = wanted.clone()
    for _ in range(SHARPENED):
        power = power * wanted / torch.fft.irfft2(torch.fft.rfft2(power) * blur, s=shape).clamp(min=1e-300)
    basis = PlaneWaves(shape)
    kept = power[:, : shape[1] // 2 + 1].reshape(-1)
    mean = torch.full((shape[0] * shape[1],), float(reference.mean.mean()), dtype=F64)
    return GaussianReference(mean, basis, kept)


def _power_of_windows(reference: GaussianReference, taper: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mean power of tapered draws of a reference at every wave vector of a domain of `shape`, from the columns of its root."""
    exact = reference.to("cpu", F64)
    root, size = exact.basis.expand(exact.spectrum.to(F64).sqrt()), taper.numel()
    total = torch.zeros(shape, dtype=F64)
    for columns in torch.split(torch.arange(size), 256):
        units = torch.zeros(len(columns), size, dtype=F64)
        units[torch.arange(len(columns)), columns] = 1
        drawn = exact.basis.synthesise(root * exact.basis.analyse(units)).reshape(-1, *taper.shape)
        total += torch.fft.fft2(drawn * taper, s=shape).abs().square().sum(0)
    return (total + total.flip((0, 1)).roll((1, 1), (0, 1))) / 2
