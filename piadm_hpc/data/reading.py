"""Opening gridded files through xarray: any format, several files, and every mistake in them told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..config.paths import matching
from ..schema.layout import Coordinate, Variable

CF_KEYS = ("units", "standard_name", "long_name", "positive", "cell_methods")


@dataclass(frozen=True)
class RawFields:
    """Fields as they are in the files: `values` [samples, variables, lat, lon] float32, NaN where missing.

    `file` [samples] numbers the file each sample came from, `names` are those files' names, `months` [samples] the
    calendar month 1-12 if the samples are dated.
    """

    values: np.ndarray
    file: np.ndarray
    names: tuple[str, ...]
    months: np.ndarray | None
    variables: tuple[Variable, ...]
    coordinates: dict[str, Coordinate]


def read_files(
    files: Sequence[str],
    variables: Sequence[str],
    sample_dims: Sequence[str],
    spatial_dims: tuple[str, str],
    select: Mapping[str, float],
    root: Path,
) -> RawFields:
    """The named variables of all files, concatenated over samples; ValueError lists everything that does not fit."""
    paths = expand(files, root, "files")
    parts, months, mistakes = [], [], []
    first: xr.Dataset | None = None
    for path in paths:
        try:
            with open_fields(path) as dataset:
                chosen = _choose(dataset, variables, sample_dims, spatial_dims, select)
                loaded = chosen.load()
            if first is not None:
                _same_grid(first, loaded, spatial_dims)
            first = loaded if first is None else first
            parts.append(_samples(loaded, variables, spatial_dims))
            months.append(_calendar(loaded, sample_dims))
        except ValueError as error:
            mistakes.append(f"{path.name}: {error}")
    if mistakes or first is None:
        raise ValueError("\n".join(mistakes))
    return RawFields(
        values=np.concatenate(parts),
        file=np.repeat(np.arange(len(parts)), [len(p) for p in parts]),
        names=tuple(path.name for path in paths),
        months=None if any(m is None for m in months) else np.concatenate([m for m in months if m is not None]),
        variables=tuple(Variable(name, tuple(spatial_dims), _cf(first[name].attrs)) for name in variables),
        coordinates={dim: _coordinate(first, dim) for dim in spatial_dims},
    )


def require_one_way_to_hold_out(files: Sequence[str], share: float) -> None:
    """ValueError for data held out by files and by fractions at once, or for fractions that leave nothing."""
    if files and share:
        raise ValueError("hold out either by files or by fractions, not both")
    if share >= 1:
        raise ValueError(f"validation_fraction + test_fraction = {share} leaves nothing to train on")


def expand(files: Sequence[str], root: Path, key: str) -> list[Path]:
    """Existing paths for names and globs, in order, each once; ValueError naming the configuration's `key`."""
    found: dict[Path, None] = {}
    absent = []
    for name in files:
        matches = matching(name, root)
        if not matches:
            absent.append(name)
        found.update(dict.fromkeys(matches))
    if absent:
        raise ValueError(f"no file matches {', '.join(absent)} (looked from {root.resolve()}); check `{key}`")
    return list(found)


def open_fields(path: Path) -> xr.Dataset:
    """The dataset in a file, by xarray's own choice of reader, or as plain HDF5 without dimension names."""
    attempts: list[dict[str, Any]] = [{}, {"decode_times": False}, {"engine": "h5netcdf", "phony_dims": "access"}]
    causes = []
    for options in attempts:
        try:
            return xr.open_dataset(path, **options)
        except (ValueError, OSError, TypeError, KeyError, ImportError) as error:
            causes.append(str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__)
    raise ValueError(f"cannot be read as NetCDF, HDF5 or Zarr ({causes[0]}); a reader may be missing, see the extra 'climate'")


def _choose(
    dataset: xr.Dataset,
    variables: Sequence[str],
    sample_dims: Sequence[str],
    spatial_dims: Sequence[str],
    select: Mapping[str, float],
) -> xr.Dataset:
    """The variables with dimensions in order (samples, lat, lon), after selecting one value of any other dimension."""
    names = [str(name) for name in dataset.data_vars]
    mistakes = [f"no variable {v!r}; {_nearest(v, names)}" for v in variables if v not in names]
    present = [v for v in variables if v in names]
    unknown = [dim for dim in select if dim not in dataset.dims]
    mistakes += [f"select: no dimension {dim!r}; {_nearest(dim, [str(d) for d in dataset.dims])}" for dim in unknown]
    bare = [dim for dim in select if dim in dataset.dims and dim not in dataset.coords]
    mistakes += [f"select: {dim!r} has no coordinate values to choose from" for dim in bare]
    if not mistakes:
        dataset = dataset[present].sel(dict(select), method="nearest") if select else dataset[present]
    wanted = [*sample_dims, *spatial_dims]
    for name in present:
        has = [str(dim) for dim in dataset[name].dims]
        mistakes += [f"{name} has no dimension {dim!r}; it has {', '.join(has)}" for dim in wanted if dim not in has]
        extra = [dim for dim in has if dim not in wanted and dataset.sizes[dim] > 1 and dim not in select]
        advice = "name it in sample_dims or choose from it with select"
        mistakes += [f"{name} has a further dimension {dim!r}; {advice}" for dim in extra]
        if dataset[name].dtype.kind not in "fiu":
            mistakes.append(f"{name} holds {dataset[name].dtype}, not numbers")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return dataset.squeeze([dim for dim in dataset.dims if dim not in wanted]).transpose(*wanted)


def _samples(dataset: xr.Dataset, variables: Sequence[str], spatial_dims: Sequence[str]) -> np.ndarray:
    """[samples, variables, lat, lon] float32."""
    grid = tuple(dataset.sizes[dim] for dim in spatial_dims)
    fields = [dataset[name].values.astype(np.float32).reshape(-1, *grid) for name in variables]
    empty = [name for name, field in zip(variables, fields, strict=True) if not np.isfinite(field).any()]
    if empty:
        raise ValueError(f"{', '.join(empty)} has no finite value at all")
    return np.stack(fields, axis=1)


def _calendar(dataset: xr.Dataset, sample_dims: Sequence[str]) -> np.ndarray | None:
    """Calendar month 1-12 of every sample, if one of the sample dimensions is dated."""
    for dim in sample_dims:
        if _dated(dataset, dim):
            shape = [dataset.sizes[d] for d in sample_dims]
            months = dataset[dim].dt.month.values.reshape([-1 if d == dim else 1 for d in sample_dims])
            return np.broadcast_to(months, shape).reshape(-1).astype(np.int64)
    return None


def _dated(dataset: xr.Dataset, dim: str) -> bool:
    if dim not in dataset.coords:
        return False
    values = dataset[dim].values
    return values.dtype.kind == "M" or (values.dtype.kind == "O" and hasattr(values.flat[0], "month"))


def _same_grid(first: xr.Dataset, other: xr.Dataset, spatial_dims: Sequence[str]) -> None:
    for dim in spatial_dims:
        a, b = _coordinate(first, dim).values, _coordinate(other, dim).values
        if a.shape != b.shape or not np.allclose(a, b, atol=1e-4):
            raise ValueError(f"its {dim} ({len(b)} values) differs from the first file's ({len(a)}); use files on one grid")


def _coordinate(dataset: xr.Dataset, dim: str) -> Coordinate:
    if dim not in dataset.coords:
        return Coordinate((dim,), np.arange(dataset.sizes[dim], dtype=np.float64), {"long_name": f"index along {dim}"})
    attrs = _cf(dataset[dim].attrs)
    standard = {"degrees_north": "latitude", "degrees_east": "longitude"}.get(attrs.get("units", ""))
    return Coordinate((dim,), dataset[dim].values.astype(np.float64), attrs | ({"standard_name": standard} if standard else {}))


def _cf(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """The attributes that still hold for generated fields."""
    return {key: str(attrs[key]) for key in CF_KEYS if key in attrs}


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3, cutoff=0.4)
    return f"nearest are {', '.join(close)}" if close else f"there are {', '.join(known) or 'none'}"
