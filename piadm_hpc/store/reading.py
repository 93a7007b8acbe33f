"""Opening a run in xarray after checking that it is complete, and refusing to read files that have changed since."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import xarray as xr

from .conventions import DIALECTS, realization
from .errors import StoreError
from .integrity import check
from .packs.reading import open_packed, zarr_folder
from .statistics.reading import counts_only
from .watching import ENGINES, WatchedStore, watch

FILE_ATTRIBUTES = ("complete", "num_samples", "shards")
"""Attributes that describe the file on disk, and not results computed from it."""


def open_run(
    path: str | os.PathLike[str],
    *,
    chunks: Mapping[str, int] | str | int | None = None,
    engine: str = "h5netcdf",
    dialect: str | None = None,
    flat: bool = False,
) -> xr.Dataset:
    """Open the samples of a run as they are stored; `piadm_hpc.open` has the same arguments, and more.

    Raises StoreError when anything is missing or damaged, at once or at a later read.
    """
    require_dialect(dialect)
    return arranged(open_samples(path, engine=engine), chunks=chunks, dialect=dialect, flat=flat)


def require_dialect(dialect: str | None) -> None:
    """Raise StoreError for a dialect that is not known."""
    if dialect is not None and dialect not in DIALECTS:
        raise StoreError(f"dialect: {dialect!r} is not known; give one of {sorted(DIALECTS)}")


def open_samples(path: str | os.PathLike[str], *, engine: str = "h5netcdf") -> xr.Dataset:
    """Open the samples of a run along one dimension, as they are stored; raises StoreError as `open_run` does."""
    if engine not in ENGINES:
        raise StoreError(f"engine: {engine!r} is not known; give one of {sorted(ENGINES)}")
    if counts_only(Path(path).absolute()):
        raise StoreError(f"{path} holds statistics, and no samples; open them with piadm_hpc.open(..., statistics=True)")
    if (folder := zarr_folder(Path(path).absolute())) is not None:
        return open_packed(folder)
    report = check(path, extra=False)
    if not report.ok:
        raise StoreError(f"{report.path} is not whole:\n  " + "\n  ".join(report.problems))
    try:
        dataset = xr.open_dataset(WatchedStore(ENGINES[engine](report.path), watch(report.path)))
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        # a file that somebody harmed may make the readers fail in any way
        raise StoreError(f"cannot open {report.path} with engine {engine!r}: {error}; try 'h5netcdf' or 'netcdf4'") from error
    for name in FILE_ATTRIBUTES:
        dataset.attrs.pop(name, None)
    return dataset


def arranged(dataset: xr.Dataset, *, chunks: Mapping[str, int] | str | int | None, dialect: str | None, flat: bool) -> xr.Dataset:
    """Give samples along one dimension the dimensions, names and chunks requested from `open_run`."""
    dim = str(dataset.attrs["sample_dim"])
    if "condition_index" in dataset and not flat:
        dataset, dim = _by_condition(dataset, dim), "realization"
        if "lead_time" in dataset:
            dataset = _by_lead(dataset)
    if dialect is not None and DIALECTS[dialect] != dim:
        dataset = dataset.rename({dim: DIALECTS[dialect]})
        dim = DIALECTS[dialect]
    if chunks is None:
        return dataset
    return dataset.chunk(_by_sample(chunks, dim))


def _by_condition(dataset: xr.Dataset, dim: str) -> xr.Dataset:
    """The samples as members times conditions, in place of one dimension `dim` with a member and a condition each."""
    count = dataset.sizes["condition"]
    members = realization(dataset["member"].values[::count].tolist())
    if find_spec("dask") is not None:
        dataset = dataset.chunk({dim: count})
    split = (
        dataset.drop_vars([dim, "member", "condition_index"]).coarsen({dim: count}).construct({dim: ("realization", "condition")})
    )
    found = split.assign_coords(realization=("realization", members.values, members.attrs))
    return found.assign_attrs(sample_dim="realization")


def _by_lead(dataset: xr.Dataset) -> xr.Dataset:
    """Forecasts by start, member and lead, in place of one dimension of starts and leads."""
    dims = ("init_time", "lead_time")
    labels = {name: dataset[name].variable for name in dims}
    leads = int(labels["lead_time"].values.max())
    split = dataset.drop_vars([*dims, "condition"]).coarsen(condition=leads).construct(condition=dims)
    starts, numbers = labels["init_time"].values[::leads], labels["lead_time"].values[:leads]
    try:
        starts = starts.astype(str).astype("datetime64[ns]") if starts.dtype.kind in "OUS" else starts
    except ValueError:  # dates of a calendar that numpy does not know are kept as they are written
        pass
    found = split.assign_coords(
        init_time=("init_time", starts, labels["init_time"].attrs), lead_time=("lead_time", numbers, labels["lead_time"].attrs)
    )
    return found.transpose("init_time", "realization", "lead_time", ...)


def _by_sample(chunks: Mapping[str, int] | str | int, dim: str) -> Any:
    """One sample per chunk by default: virtual datasets have no chunks of their own, so {} would put everything into one."""
    return chunks if isinstance(chunks, (str, int)) else {dim: 1, **chunks}
