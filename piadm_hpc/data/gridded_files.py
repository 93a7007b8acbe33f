"""Opening one gridded file through xarray: any format, whole, with the names of the recipe and its chosen dimensions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..schema.layout import Coordinate
from .dates import decoded
from .headers import is_hdf5, require_whole
from .regrid import Method
from .selection import Choice, levelled, nearest_names, selected
from .units import converted, same_units, units_of


@dataclass(frozen=True)
class Request:
    """The fields to read from files.

    `variables`, `sample_dims` and `spatial_dims` (rows and columns, or cells alone) are names after `rename`, which maps names
    of the files to names used here. `select` chooses one value along any other dimension, and `levels` keeps some of its values,
    or all where none are given, in every sample of the variables that have it; their coordinates are converted to `level_units`.
    `missing_values` are numbers that mean missing values; variables in `allow_outliers` may hold values far from all others.
    `units` converts a variable's units. From a file with more than `most` samples evenly spaced ones are read.

    Fields on other rows and columns than the first file's are interpolated by the method `regrid`, and refused without one.

    A recipe is `exact`: every dimension it names must be there. Files that are compared with a model need not be: its renames
    and selections apply where they are found, and samples lie along dimensions in `sample_dims`, or with dates.
    """

    variables: tuple[str, ...]
    spatial_dims: tuple[str, ...]
    sample_dims: tuple[str, ...] = ("time",)
    select: Mapping[str, Choice] = field(default_factory=dict)
    levels: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    level_units: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    missing_values: tuple[float, ...] = ()
    allow_outliers: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    regrid: Method | None = None
    exact: bool = True
    most: int | None = None

    def at(self, levels: Mapping[str, Coordinate]) -> Request:
        """The same request for exactly these levels."""
        return replace(
            self,
            levels={dim: tuple(coordinate.values.tolist()) for dim, coordinate in levels.items()},
            level_units={dim: str(c.attrs["units"]) for dim, c in levels.items() if "units" in c.attrs},
        )


HDF5: dict[str, Any] = {"engine": "h5netcdf", "phony_dims": "access"}


def _half_precision(path: Path) -> bool:
    """Whether an HDF5 file has numbers of half precision, which netCDF4 takes for text and crashes on."""
    if not is_hdf5(path):
        return False
    with suppress(ValueError, OSError, TypeError, KeyError, ImportError, RuntimeError):
        with xr.open_dataset(path, decode_cf=False, **HDF5) as dataset:
            return any(variable.dtype == np.float16 for variable in dataset.variables.values())
    return False


def open_fields(path: Path) -> xr.Dataset:
    """The dataset in a file, times not decoded, by xarray's own choice of reader, or as plain HDF5 without dimension names.

    Raises ValueError for a truncated file, and for one that no reader can open.
    """
    require_whole(path)
    causes = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*float16", FutureWarning)  # pandas makes float64 of such coordinates
        for options in [HDF5] if _half_precision(path) else [{}, HDF5]:
            try:
                return xr.open_dataset(path, decode_times=False, **options)
            except (ValueError, OSError, TypeError, KeyError, ImportError, RuntimeError) as error:
                causes.append(str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__)
    raise ValueError(
        f"cannot be read as NetCDF, HDF5 or Zarr: xarray cannot open it ({causes[0]}); "
        "a reader may be missing, see the extra 'climate'"
    )


def renamed(dataset: xr.Dataset, rename: Mapping[str, str]) -> xr.Dataset:
    """The dataset with its names as in the recipe; ValueError for names that would then occur twice."""
    there = {str(name) for name in (*dataset.variables, *dataset.dims)}
    known = {old: new for old, new in rename.items() if old in there}
    twice = [new for new in known.values() if new in there - set(known)]
    if twice:
        raise ValueError(f"rename: there is already a {', '.join(twice)}; choose another name")
    return dataset.rename(known)


def chosen(dataset: xr.Dataset, request: Request) -> tuple[xr.Dataset, tuple[str, ...]]:
    """The variables with dimensions in order (samples, levels, lat, lon), and the dimensions along which samples lie.

    Raises ValueError that lists absent variables and dimensions, impossible selections, and further dimensions.
    """
    names = [str(name) for name in dataset.data_vars]
    absent = "no variable {0!r}" if request.exact else "there is no {0} among its variables"
    mistakes = [f"{absent.format(v)}; {nearest_names(v, names)}" for v in request.variables if v not in names]
    present = [v for v in request.variables if v in names]
    mistakes += [f"{v} holds {dataset[v].dtype}, not numbers" for v in present if dataset[v].dtype.kind not in "fiu"]
    if not request.exact:
        dims = {str(dim) for name in present for dim in dataset[name].dims}
        select = {dim: value for dim, value in request.select.items() if dim in dims}
        sample_dims = _samples(dataset, present, request, select)
    else:
        select, sample_dims = dict(request.select), request.sample_dims
    found, wrong = selected(_with_dates(dataset, select), select, sample_dims)
    mistakes += wrong
    found, wrong = levelled(_in_level_units(found, request.level_units), request.levels, sample_dims)
    mistakes += wrong
    mistakes += (
        [] if wrong else _dimension_mistakes(found, present, (*sample_dims, *request.spatial_dims), select, request.levels)
    )
    if mistakes:
        raise ValueError("; ".join(mistakes))
    wanted = [*sample_dims, *request.levels, *request.spatial_dims]
    fields = found[present].squeeze([dim for dim in found[present].dims if dim not in wanted])
    return fields.transpose(*wanted), sample_dims


def _in_level_units(dataset: xr.Dataset, units: Mapping[str, str]) -> xr.Dataset:
    """The dataset with the coordinates of levels in these units, where they name others that can be converted."""
    for dim, wanted in units.items():
        given = units_of(dataset[dim].attrs) if dim in dataset.coords else None
        if given is not None and not same_units(given, wanted):
            with suppress(ValueError):  # then no level is found, and the message lists those that exist
                values = converted(dataset[dim].values.astype(np.float64), given, wanted)
                dataset = dataset.assign_coords({dim: (dim, values, dataset[dim].attrs | {"units": wanted})})
    return dataset


def thinning(fields: xr.Dataset, sample_dims: Sequence[str], most: int | None) -> dict[str, np.ndarray]:
    """Evenly spaced positions along the longest dimension of samples, where there are more than `most` samples."""
    count = prod(fields.sizes[dim] for dim in sample_dims)
    if most is None or count <= most:
        return {}
    longest = max(sample_dims, key=lambda dim: fields.sizes[dim])
    size = fields.sizes[longest]
    kept = max(1, most * size // count)
    return {longest: np.unique(np.linspace(0, size - 1, kept).round().astype(int))}


def _samples(dataset: xr.Dataset, present: Sequence[str], request: Request, select: Mapping[str, Choice]) -> tuple[str, ...]:
    """The dimensions along which samples lie in a file that no recipe describes."""
    dims = dict.fromkeys(str(dim) for name in present for dim in dataset[name].dims)
    others = [dim for dim in dims if dim not in request.spatial_dims and dim not in select and dim not in request.levels]
    return tuple(dim for dim in others if dim in request.sample_dims or _has_dates(dataset, dim))


def _has_dates(dataset: xr.Dataset, dim: str) -> bool:
    if dim not in dataset.coords:
        return False
    return dataset[dim].dtype.kind == "M" or " since " in str(dataset[dim].attrs.get("units", ""))


def _with_dates(dataset: xr.Dataset, select: Mapping[str, Choice]) -> xr.Dataset:
    """The dataset with decoded dates along the dimensions from which a date is selected."""
    for dim in select:
        if dim in dataset.dims and _has_dates(dataset, dim):
            with suppress(ValueError):  # dates that are missing are no choice
                dates = decoded(dataset, dim)
                dataset = dataset if isinstance(dates, str) else dataset.assign_coords({dim: dates})
    return dataset


def _dimension_mistakes(
    dataset: xr.Dataset, present: Sequence[str], wanted: Sequence[str], select: Mapping[str, Choice], levels: Iterable[str]
) -> list[str]:
    has_any = {str(dim) for name in present for dim in dataset[name].dims}
    mistakes = [f"levels: none of {', '.join(present)} has the dimension {dim!r}" for dim in levels if dim not in has_any]
    for name in present:
        has = [str(dim) for dim in dataset[name].dims]
        absent = [dim for dim in wanted if dim not in has]
        if absent:  # before they are named, nothing can be said of the others
            mistakes.append(
                f"{name} has no dimension {', '.join(map(repr, absent))}; it has {', '.join(has)}; "
                "name those of a field in spatial_dims and those along which samples lie in sample_dims"
            )
            continue
        known = {*wanted, *select, *levels}
        further = [dim for dim in has if dim not in known and dataset.sizes[dim] > 1]
        mistakes += [
            f"{name} has a further dimension {dim!r} of {dataset.sizes[dim]} values; name it in sample_dims, "
            f'choose one value with select, or keep them in every sample with levels (levels = "{dim}")'
            for dim in further
        ]
    return mistakes
