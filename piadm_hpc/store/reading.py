"""Opening a run in xarray, after making sure that all of it is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import xarray as xr

from .conventions import DIALECTS
from .errors import StoreError
from .integrity import check

FILE_ATTRIBUTES = ("complete", "num_samples", "shards")
"""What describes the file on disk: no longer true of what is computed from it."""


def open_run(
    path: str | os.PathLike[str],
    *,
    chunks: Mapping[str, int] | str | int | None = None,
    engine: str = "h5netcdf",
    dialect: str | None = None,
) -> xr.Dataset:
    """The samples of a run as a lazy dataset; `path` is its folder, its index, a copy or one shard.

    `chunks` makes dask arrays ({} means one sample each); `dialect` names the sample dimension as another tool does (one of
    DIALECTS). Raises StoreError when anything is missing or damaged: a value that was not written never reads as NaN.
    """
    if dialect is not None and dialect not in DIALECTS:
        raise StoreError(f"dialect: {dialect!r} is not known; give one of {sorted(DIALECTS)}")
    report = check(path, extra=False)
    if not report.ok:
        raise StoreError(f"{report.path} is not whole:\n  " + "\n  ".join(report.problems))
    try:
        dataset = xr.open_dataset(report.path, engine=engine)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot open {report.path} with engine {engine!r}: {error}; try 'h5netcdf' or 'netcdf4'") from error
    for name in FILE_ATTRIBUTES:
        dataset.attrs.pop(name, None)
    dim = str(dataset.attrs["sample_dim"])
    if dialect is not None and DIALECTS[dialect] != dim:
        dataset = dataset.rename({dim: DIALECTS[dialect]})
        dim = DIALECTS[dialect]
    if chunks is None:
        return dataset
    return dataset.chunk(_by_sample(chunks, dim))


def _by_sample(chunks: Mapping[str, int] | str | int, dim: str) -> Any:
    """Virtual datasets show no chunks of their own, so that {} would make a single one of everything."""
    return chunks if isinstance(chunks, (str, int)) else {dim: 1, **chunks}
