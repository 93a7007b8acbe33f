"""Fit of the Gaussian reference to training fields, regularised by held-out fields."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...data.geometry import lattice, rectangular
from ...data.grids import why_not_global
from ...gaussian.harmonics import fit_harmonic_eof
from ...gaussian.masked import MaskedEOF
from ...gaussian.reference import GaussianReference, from_fields
from ...theory.bases import EOF, Basis, Fourier, Identity, Pixelwise, SphericalHarmonics
from ..config import ReferenceConfig
from .localised import fit_localised_eof


def fit_reference(
    train: Tensor,
    validation: Tensor,
    config: ReferenceConfig,
    *,
    mask: Tensor | None = None,
    latitudes: list[float] | None = None,
    longitudes: list[float] | None = None,
    grid: tuple[np.ndarray, np.ndarray] | None = None,
) -> GaussianReference:
    """Fit the Gaussian reference of states [n, *event], in float64.

    `mask` [*event] is true where there are data. `latitudes` and `longitudes` in degrees are those of the grid, None where
    it has none. `grid` are the places [points, k] of its points and pairs [n, 2] of neighbours, by default those of rows and
    columns one apart. Held-out states `validation` determine the rank of EOFs and the variance outside them, and the
    regularisation of the covariances of "smooth" and "harmonic_eof"; without them EOFs and "smooth" use the last part of the
    training states. Raises ValueError if the basis does not suit the mask or the grid, or the rank the number of states.
    """
    fields = train.to(torch.float64)
    config = _settled(config, fields, mask, latitudes, longitudes)
    if config.basis == "smooth":
        rows, columns = train.shape[-2:]
        places, pairs = (rectangular(rows, columns), lattice(rows, columns)) if grid is None else grid
        return fit_localised_eof(fields, validation.to(torch.float64), places, mask, config.modes, pairs)
    if config.basis == "eof":
        return _fit_eof(fields, validation.to(torch.float64), config, mask)
    if mask is not None and config.basis != "pixelwise":
        gaps = int((~mask).sum())
        raise ValueError(
            f"basis {config.basis!r} needs fields without gaps, these have {gaps}; use 'smooth', 'eof' or 'pixelwise'"
        )
    if config.basis in ("harmonic_eof", "spherical"):
        reason = _why_not_global(latitudes, longitudes)
        if reason is not None:
            raise ValueError(f"basis {config.basis!r} needs a global grid with latitudes in degrees, and {reason}; use 'smooth'")
    if config.basis == "harmonic_eof" and latitudes is not None:
        lmax = config.lmax or min(train.shape[1], train.shape[2] // 2)
        return fit_harmonic_eof(fields, validation.to(torch.float64), latitudes, lmax, config.split)
    return from_fields(fields, _plain_basis(config, tuple(train.shape[1:]), latitudes))


def _why_not_global(latitudes: list[float] | None, longitudes: list[float] | None) -> str | None:
    """The reason why a grid is not global; None if it is, or if it has only latitudes and these are."""
    if latitudes is None:
        return "it has no latitudes"
    return why_not_global(np.array(latitudes), None if longitudes is None else np.array(longitudes))


def _settled(
    config: ReferenceConfig,
    fields: Tensor,
    mask: Tensor | None,
    latitudes: list[float] | None,
    longitudes: list[float] | None,
) -> ReferenceConfig:
    """The configuration with the basis that "auto" stands for: harmonics for one variable on the whole globe, else "smooth".

    If a rank is given, or there are too few fields to hold any out, it means EOFs.
    """
    if config.basis != "auto":
        return config
    if config.rank != "auto" or "max_rank" in config.model_fields_set or len(fields) < 5:
        return config.model_copy(update={"basis": "eof"})
    lmax = min(fields.shape[-2], fields.shape[-1] // 2) if fields.ndim == 3 else 0
    if mask is not None or lmax < 2 or _why_not_global(latitudes, longitudes) is not None:
        return config.model_copy(update={"basis": "smooth"})
    lmax = config.lmax or lmax
    return config.model_copy(update={"basis": "harmonic_eof", "lmax": lmax, "split": min(config.split, lmax - 1)})


def _plain_basis(config: ReferenceConfig, event_shape: tuple[int, ...], latitudes: list[float] | None) -> Basis:
    if config.basis == "spherical":
        nlat, nlon = event_shape
        return SphericalHarmonics(nlat, nlon, config.lmax or min(nlat, nlon // 2), latitudes)
    if config.basis == "fourier":
        return Fourier(event_shape)
    return Pixelwise(event_shape) if config.basis == "pixelwise" else Identity(event_shape)


def _fit_eof(train: Tensor, validation: Tensor, config: ReferenceConfig, mask: Tensor | None) -> GaussianReference:
    flat = train.flatten(1)
    size = flat.shape[1] if mask is None else int(mask.sum())
    # without held-out states the last fifth of the training states stands in for them
    kept = len(flat) if len(validation) else len(flat) - len(flat) // 5
    unseen = validation.flatten(1) if len(validation) else flat[kept:]
    most = min(kept - 2, size - 1)
    if config.rank != "auto" and config.rank > most:
        raise ValueError(f'reference rank {config.rank} is too high for {kept} training fields; use at most {most} or "auto"')
    rank, tail = _size_up(flat[:kept], unseen, config, size, most)
    mean, variances, modes = _decompose(flat)
    spectrum = torch.cat([variances[:rank], tail])
    leading = modes[:rank].T.contiguous()
    if mask is None:
        return GaussianReference(mean, EOF(leading, tuple(train.shape[1:])), spectrum)
    basis = MaskedEOF(leading * mask.flatten()[:, None], tuple(train.shape[1:]), mask.flatten())
    return GaussianReference(mean, basis, torch.cat([spectrum, torch.zeros_like(tail)]))


def _decompose(flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of states [n, d]: mean [d], variances [k] in descending order, modes [k, d]."""
    mean = flat.mean(0)
    _, singular, modes = torch.linalg.svd(flat - mean, full_matrices=False)
    return mean, singular**2 / (len(flat) - 1), modes


def _size_up(probe: Tensor, unseen: Tensor, config: ReferenceConfig, size: int, most: int) -> tuple[int, Tensor]:
    """Choose the rank, and the variance [1] of every direction outside the modes, by held-out states [n, d].

    Training states underestimate that variance, since the modes were fitted to them.
    """
    mean, variances, modes = _decompose(probe)
    inside = ((unseen - mean) @ modes[:most].T).square().mean(0)
    total = (unseen - mean).square().sum(1).mean()

    def tail(rank: int) -> Tensor:
        return (total - inside[:rank].sum()) / (size - rank)

    def surprise(rank: int) -> float:
        head = (torch.log(variances[:rank]) + inside[:rank] / variances[:rank]).sum()
        return float(head + (size - rank) * (torch.log(tail(rank)) + 1))

    most = min(most, config.max_rank)
    ladder = {step * 2**k for k in range(most.bit_length()) for step in (1, 3)} | {most}
    rank = min((r for r in ladder if r <= most), key=surprise) if config.rank == "auto" else config.rank
    return rank, tail(rank).reshape(1)
