"""Fitting the Gaussian reference to training fields without fitting their noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bases import EOF, Basis, Fourier, Identity, Pixelwise, SphericalHarmonics
from ..reference import GaussianReference, from_fields
from .config import ReferenceConfig
from .shells import MaskedEOF


def fit_reference(train: Tensor, validation: Tensor, config: ReferenceConfig, *, mask: Tensor | None = None,
                  latitudes: list[float] | None = None) -> GaussianReference:
    """The reference of states [n, *event] in float64; `mask` [*event] is true where there are data.

    Held-out states `validation` choose the rank of EOFs and the variance of what they leave out. ValueError if the
    basis does not go with a mask or the rank with the number of states.
    """
    fields = train.to(torch.float64)
    if config.basis == "eof":
        return _fit_eof(fields, validation.to(torch.float64), config, mask)
    if mask is not None and config.basis != "pixelwise":
        raise ValueError(f"basis {config.basis!r} needs fields without gaps, these have {int((~mask).sum())}; use 'eof' or 'pixelwise'")
    return from_fields(fields, _plain_basis(config, tuple(train.shape[1:]), latitudes))


def _plain_basis(config: ReferenceConfig, event_shape: tuple[int, ...], latitudes: list[float] | None) -> Basis:
    if config.basis == "spherical":
        nlat, nlon = event_shape
        return SphericalHarmonics(nlat, nlon, config.lmax or min(nlat, nlon // 2), latitudes)
    if config.basis == "fourier":
        return Fourier(event_shape)
    return Pixelwise(event_shape) if config.basis == "pixelwise" else Identity(event_shape)


def _fit_eof(train: Tensor, validation: Tensor, config: ReferenceConfig, mask: Tensor | None) -> GaussianReference:
    flat = train.flatten(1)
    most = min(len(flat) - 2, flat.shape[1] - 1 if mask is None else int(mask.sum()) - 1)
    wanted = config.max_rank if config.rank == "auto" else config.rank
    if config.rank != "auto" and wanted > most:
        raise ValueError(f"reference rank {wanted} is too high for {len(flat)} training fields; use at most {most} or \"auto\"")
    mean = flat.mean(0)
    _, singular, modes = torch.linalg.svd(flat - mean, full_matrices=False)
    variances = singular**2 / (len(flat) - 1)
    size = flat.shape[1] if mask is None else int(mask.sum())
    held = validation.flatten(1) - mean
    if config.rank == "auto":
        rank = _best_rank(variances, modes, held, size, min(config.max_rank, most))
    else:
        rank = config.rank
    kept = modes[:rank].T.contiguous()
    tail = _tail(variances, kept, held, size, len(flat))
    if mask is None:
        basis: EOF = EOF(kept, tuple(train.shape[1:]))
        return GaussianReference(mean, basis, torch.cat([variances[:rank], tail]))
    basis = MaskedEOF(kept * mask.flatten()[:, None], tuple(train.shape[1:]), mask.flatten())
    return GaussianReference(mean, basis, torch.cat([variances[:rank], tail, torch.zeros_like(tail)]))


def _tail(variances: Tensor, kept: Tensor, held: Tensor, size: int, count: int) -> Tensor:
    """Variance per direction outside the kept modes, [1].

    Training fields understate it, since the modes were fitted to them; held-out fields do not. Without these, the usual
    correction for the degrees of freedom the modes have used up.
    """
    rank = kept.shape[1]
    if len(held):
        outside = (held**2).sum() - ((held @ kept) ** 2).sum()
        return (outside / len(held) / (size - rank)).reshape(1)
    return (variances[rank:].sum() / (size - rank) * count / max(1, count - 1 - rank)).reshape(1)


def _best_rank(variances: Tensor, modes: Tensor, held: Tensor, size: int, most: int) -> int:
    """The rank under which held-out fields are likeliest; without held-out fields the largest allowed."""
    if not len(held):
        return most
    ladder = {2**k for k in range(most.bit_length())} | {3 * 2**k for k in range(most.bit_length())} | {most}
    inside = (held @ modes[:most].T) ** 2
    total = (held**2).sum(1).mean()

    def surprise(rank: int) -> float:
        head = (torch.log(variances[:rank]) + inside[:, :rank].mean(0) / variances[:rank]).sum()
        tail = (total - inside[:, :rank].mean(0).sum()) / (size - rank)
        return float(head + (size - rank) * (torch.log(tail) + 1))

    return min((rank for rank in ladder if rank <= most), key=surprise)
