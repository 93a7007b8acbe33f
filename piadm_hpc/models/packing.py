"""Storing a Gaussian reference, and the response of a model, as named arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.normalise import Normalisation
from ..gaussian.harmonics import HarmonicEOF
from ..gaussian.masked import MaskedEOF
from ..gaussian.reference import GaussianReference, Response, Smoothness
from ..gaussian.regional import RegionalEOF
from ..gaussian.regression import Regression
from ..gaussian.shared import SharedEOF
from ..schema.layout import Coordinate
from ..store.arrays import read_arrays, write_arrays
from ..theory.bases import EOF, Basis, Fourier, Identity, Pixelwise, SphericalHarmonics
from .gate import Gate
from .record import ReferenceCard

RESPONSE = "response.h5"  # the response preconditions sweeps; no sample depends on it, so the card does not list it

KINDS: dict[type, str] = {
    MaskedEOF: "masked_eof",
    RegionalEOF: "regional_eof",
    EOF: "eof",
    SharedEOF: "shared_eof",
    HarmonicEOF: "harmonic_eof",
    SphericalHarmonics: "spherical",
    Fourier: "fourier",
    Pixelwise: "pixelwise",
    Identity: "isotropic",
}


def describe_reference(reference: GaussianReference) -> ReferenceCard:
    """Return the card's description of a reference; ValueError for a basis that cannot be stored."""
    basis = reference.basis
    if type(basis) not in KINDS:
        accepted = ", ".join(KINDS.values())
        raise ValueError(f"a reference in basis {type(basis).__name__} cannot be stored; accepted are {accepted}")
    rank = basis.rank if isinstance(basis, EOF) else basis.count if isinstance(basis, SharedEOF) else None
    if isinstance(basis, HarmonicEOF):
        return ReferenceCard(basis="harmonic_eof", lmax=basis.harmonics.lmax, split=basis.split)
    if isinstance(basis, SphericalHarmonics):
        return ReferenceCard(basis="spherical", lmax=basis.lmax, gauss_latitudes=basis.latitudes is None)
    return ReferenceCard.model_validate({"basis": KINDS[type(basis)], "rank": rank})


def pack_reference(reference: GaussianReference, grid: tuple[str, ...]) -> dict[str, Coordinate]:
    """Return the arrays of a reference: the mean state, a variance per shell, and the modes of EOFs in single precision."""
    event = grid if len(reference.event_shape) == len(grid) else ("variable", *grid)
    mean = _numpy(reference.mean).reshape(reference.event_shape)
    arrays = {
        "reference_mean": Coordinate(event, mean, {"long_name": "mean state"}),
        "reference_spectrum": Coordinate(("shell",), _numpy(reference.spectrum), {"long_name": "variance per shell of modes"}),
    }
    if isinstance(reference.basis, EOF):
        modes = _numpy(reference.basis.modes).T.reshape(reference.basis.rank, *reference.event_shape)
        attrs = {"long_name": "empirical orthogonal functions, orthonormal in state space"}
        arrays["reference_modes"] = Coordinate(("mode", *event), modes.astype(np.float32), attrs)
    if isinstance(reference.basis, RegionalEOF):
        regions = _numpy(reference.basis.regions).reshape(reference.event_shape)
        arrays["reference_regions"] = Coordinate(event, regions.astype(np.int8), {"long_name": "region of equal noise"})
    if isinstance(reference.basis, HarmonicEOF):
        rotation = _numpy(reference.basis.rotation).T.astype(np.float32)
        attrs = {"long_name": "empirical orthogonal functions in coordinates of the spherical harmonics of low degree"}
        arrays["reference_modes"] = Coordinate(("mode", "harmonic"), rotation, attrs)
    if isinstance(reference.basis, SharedEOF):
        arrays |= _pack_shared(reference.basis, grid)
    return arrays


def _pack_shared(basis: SharedEOF, grid: tuple[str, ...]) -> dict[str, Coordinate]:
    shape = basis.event_shape[-len(grid) :]
    modes = _numpy(basis.modes).T.reshape(basis.count, *shape).astype(np.float32)
    about = {"long_name": "empirical orthogonal functions that all variables share, orthonormal"}
    turns = {"long_name": "patterns of the variables in a band of modes, orthonormal"}
    return {
        "reference_modes": Coordinate(("mode", *grid), modes, about),
        "reference_turns": Coordinate(("band", "variable", "pattern"), _numpy(basis.turns), turns),
        "reference_bands": Coordinate(("mode",), _numpy(basis.band), {"long_name": "band of a mode"}),
    }


def pack_gate(gate: Gate | None) -> dict[str, Coordinate]:
    """Return the arrays of a gate; none without one."""
    if gate is None:
        return {}
    shells = "shell" if gate.factor.shape[1] > 1 else "all_shells"
    about = {"long_name": "share that is kept of what the network adds to the Wiener filter", "units": "1"}
    return {
        "gate_log_snr": Coordinate(
            ("gate_level",), _numpy(gate.log_snr), {"long_name": "logarithm of the signal-to-noise ratio"}
        ),
        "gate_factor": Coordinate(("gate_level", shells), _numpy(gate.factor), about),
    }


def unpack_gate(arrays: Mapping[str, Coordinate], shells: int) -> Gate | None:
    """Return the gate that arrays describe for a basis of so many shells, None without any; ValueError for other arrays."""
    if "gate_factor" not in arrays:
        return None
    level, factor = (
        torch.from_numpy(np.array(arrays[name].values)).to(torch.float64) for name in ("gate_log_snr", "gate_factor")
    )
    gate = Gate(level, factor)
    if factor.shape[1] not in (1, shells):
        raise ValueError(f"gate_factor has {factor.shape[1]} shells, the reference {shells}")
    return gate


def pack_regression(regression: Regression, grid: tuple[str, ...]) -> dict[str, Coordinate]:
    """Return the arrays of a regression, in single precision."""
    about = "features of a condition are projections of its maps on condition_modes, and its numbers"
    persistence = {"long_name": "change of a variable for a map of one at the same point"}
    arrays = {
        "condition_centre": Coordinate(("feature",), _numpy(regression.centre), {"long_name": "mean features"}),
        "condition_coefficients": Coordinate(
            ("feature", "entry"), _numpy(regression.coefficients).astype(np.float32), {"long_name": f"change of a state; {about}"}
        ),
        "condition_mean": Coordinate(("entry",), _numpy(regression.mean).astype(np.float32), {"long_name": "mean state"}),
    }
    if regression.gains.numel():
        gains = _numpy(regression.gains).astype(np.float32)
        arrays["condition_gains"] = Coordinate(("condition_map", "variable", "point"), gains, persistence)
    if regression.modes.numel():
        modes = _numpy(regression.modes).astype(np.float32)
        arrays["condition_modes"] = Coordinate(("condition_map", "condition_mode", "point"), modes, {"long_name": about})
    return arrays


def unpack_regression(arrays: Mapping[str, Coordinate], num_maps: int, shape: tuple[int, ...]) -> Regression:
    """Return the regression that arrays describe, in float64, for so many maps and states of `shape` [variables, lat, lon].

    Raises ValueError for arrays that are missing.
    """
    names = ("condition_centre", "condition_coefficients", "condition_mean")
    absent = [name for name in names if name not in arrays]
    if absent:
        raise ValueError(f"no array {', '.join(absent)}, which the model's condition needs")
    centre, coefficients, mean = (torch.from_numpy(np.array(arrays[name].values)).to(torch.float64) for name in names)
    points = math.prod(shape[1:])
    maps = {"condition_gains": torch.zeros(num_maps, shape[0], points), "condition_modes": torch.zeros(num_maps, 0, points)}
    maps |= {name: torch.from_numpy(np.array(arrays[name].values)) for name in maps if name in arrays}
    gains, modes = (values.to(torch.float64) for values in maps.values())
    return Regression(gains, modes, centre, coefficients, mean)


def unpack_reference(
    arrays: Mapping[str, Coordinate], card: ReferenceCard, normalisation: Normalisation, latitudes: Sequence[float]
) -> GaussianReference:
    """Return the reference that arrays describe, in float64, on a grid with these latitudes.

    Raises ValueError for arrays that are missing, of another size, or not finite.
    """
    wanted = ["reference_mean", "reference_spectrum"] + (["reference_modes"] if "eof" in card.basis else [])
    wanted += ["reference_turns", "reference_bands"] if card.basis == "shared_eof" else []
    wanted += ["reference_regions"] if card.basis == "regional_eof" else []
    absent = [name for name in wanted if name not in arrays]
    damaged = [name for name in wanted if name in arrays and not np.isfinite(arrays[name].values).all()]
    mistakes = [f"no array {name}" for name in absent] + [f"{name} has values that are not finite" for name in damaged]
    if mistakes:
        raise ValueError("; ".join(mistakes))
    found = {name: torch.from_numpy(np.array(arrays[name].values)).to(torch.float64) for name in wanted}
    modes = found.get("reference_modes")
    if card.basis == "shared_eof":
        basis: Basis = _shared_eof(card, found, normalisation)
    else:
        basis = _basis(card, modes, normalisation, latitudes, found.get("reference_regions"))
    return GaussianReference(found["reference_mean"].flatten(), basis, found["reference_spectrum"])


def _basis(
    card: ReferenceCard,
    modes: Tensor | None,
    normalisation: Normalisation,
    latitudes: Sequence[float],
    regions: Tensor | None,
) -> Basis:
    event = normalisation.event_shape
    if card.basis in ("eof", "masked_eof", "regional_eof"):
        if modes is None or modes.shape != (card.rank, *event):
            raise ValueError(f"reference_modes must be [{card.rank}, {', '.join(map(str, event))}] (rank, state)")
        columns = modes.flatten(1).T.contiguous()
        valid = torch.from_numpy(normalisation.mask.reshape(-1))
        if regions is not None:
            return _regional_eof(columns, event, regions)
        return EOF(columns, event) if card.basis == "eof" else MaskedEOF(columns, event, valid)
    if card.basis == "harmonic_eof":
        return _harmonic_eof(card, modes, event, latitudes)
    if card.basis == "spherical":
        nlat, nlon = event
        return SphericalHarmonics(nlat, nlon, card.lmax or min(nlat, nlon // 2), None if card.gauss_latitudes else latitudes)
    kinds: dict[str, type[Fourier | Pixelwise | Identity]] = {"fourier": Fourier, "pixelwise": Pixelwise, "isotropic": Identity}
    return kinds[card.basis](event)


def _shared_eof(card: ReferenceCard, found: Mapping[str, Tensor], normalisation: Normalisation) -> SharedEOF:
    modes, turns, bands = (found[f"reference_{name}"] for name in ("modes", "turns", "bands"))
    points = normalisation.mask[0].size
    if modes.numel() != (card.rank or 0) * points or bands.shape != (card.rank,):
        raise ValueError(f"reference_modes must have {card.rank} modes of {points} points, and reference_bands as many bands")
    if turns.ndim != 3 or not bool(((bands >= 0) & (bands < len(turns))).all()):
        raise ValueError("reference_turns must have a square matrix for every band in reference_bands")
    valid = None if normalisation.mask.all() else torch.from_numpy(normalisation.mask[0].reshape(-1))
    return SharedEOF(modes.flatten(1).T.contiguous(), turns, bands.long(), normalisation.event_shape, valid)


def _regional_eof(columns: Tensor, event: tuple[int, ...], regions: Tensor) -> RegionalEOF:
    """Return the basis of stored modes and regions, numbered from 0 on."""
    if regions.shape != event or set(regions.flatten().tolist()) != set(range(int(regions.max()) + 1)):
        raise ValueError(f"reference_regions must be [{', '.join(map(str, event))}] numbers from 0 on, each of them used")
    return RegionalEOF(columns, event, regions.flatten().long())


def _harmonic_eof(card: ReferenceCard, modes: Tensor | None, event: tuple[int, ...], latitudes: Sequence[float]) -> HarmonicEOF:
    """Return the basis of a stored rotation, orthonormalised again since it was rounded to single precision."""
    if modes is None or modes.ndim != 2 or card.split is None or card.lmax is None:
        raise ValueError("a harmonic_eof reference needs lmax, split and a square array of modes")
    nlat, nlon = event
    q, r = torch.linalg.qr(modes.T)
    harmonics = SphericalHarmonics(nlat, nlon, card.lmax, latitudes, area_weighted=False)
    return HarmonicEOF(harmonics, q * r.diagonal().sign(), card.split)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def load_refitted(path: str | Path, own: GaussianReference) -> GaussianReference:
    """Read a reference written by `refit`, in the basis of the model's `own`; ValueError for a file of another model."""
    arrays, _ = read_arrays(Path(path))
    if absent := [name for name in ("mean", "spectrum") if name not in arrays]:
        raise ValueError(f"{path}: no array {' or '.join(absent)}; make it with `piadm reference MODEL --data FILE`")
    mean, spectrum = (torch.from_numpy(np.array(arrays[name].values)).to(own.mean) for name in ("mean", "spectrum"))
    try:
        return replace(own, mean=mean, spectrum=spectrum.to(own.spectrum))
    except ValueError as error:
        raise ValueError(f"{path}: not a reference for this model: {error}") from None


def save_response(path: Path, response: Response, title: str) -> Path:
    """Write a response to a small HDF5 file and return its path."""
    arrays = {
        "log_snr": Coordinate(("log_snr",), response.snr.numpy(), {"long_name": "logarithm of the signal-to-noise ratio"}),
        "gain": Coordinate(
            ("log_snr", "shell"), response.gain.numpy().astype(np.float32), {"long_name": "alpha dD/dx", "units": "1"}
        ),
    }
    smoothness = response.smoothness
    if smoothness is not None:
        ends = np.array([smoothness.low, smoothness.high])
        arrays["flow_range"] = Coordinate(("end",), ends, {"long_name": "log-SNR at both ends of the flow that was probed"})
        words = "whitened coordinates" if smoothness.whitened else "units of the data's scale"
        arrays["flow_gram" if smoothness.whitened else "flow_products"] = Coordinate(
            ("node", "other_node"),
            smoothness.gram.numpy(),
            {"long_name": f"mean products of the remainder of the flow at Chebyshev points, in {words}", "units": "1"},
        )
    write_arrays(path, arrays, {"title": title})
    return path


def with_response(reference: GaussianReference, path: Path) -> GaussianReference:
    """Return the reference with the probed response of a model, if its folder has one."""
    if not path.is_file():
        return reference
    try:
        return replace(reference, response=load_response(path))
    except ValueError as error:
        raise ValueError(f"{error}; {path} can be removed, it only saves sweeps") from None


def load_response(path: Path) -> Response:
    """Read a response from a file; ValueError naming the file when it is missing or damaged."""
    arrays, _ = read_arrays(path)
    if absent := [name for name in ("log_snr", "gain") if name not in arrays]:
        raise ValueError(f"{path}: no array {' or '.join(absent)}; make it again with `piadm reference MODEL`")
    found = {name: torch.from_numpy(np.array(array.values)).to(torch.float64) for name, array in arrays.items()}
    try:
        low, high = found.get("flow_range", torch.zeros(2)).tolist()
        known = [name for name in ("flow_products", "flow_gram") if name in found]
        smoothness = Smoothness(low, high, found[known[0]], whitened=known[0] == "flow_gram") if known else None
        return Response(found["log_snr"], found["gain"], smoothness)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
