"""Opening a run in xarray once all of it is known to be there, and refusing to read it once it is not there any more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import xarray as xr

from .conventions import DIALECTS
from .errors import StoreError
from .integrity import check
from .watching import ENGINES, WatchedStore, watch

FILE_ATTRIBUTES = ("complete", "num_samples", "shards")
"""Attributes that describe the file on disk, and not what is computed from it."""


def open_run(
    path: str | os.PathLike[str],
    *,
    chunks: Mapping[str, int] | str | int | None = None,
    engine: str = "h5netcdf",
    dialect: str | None = None,
) -> xr.Dataset:
    """Open the samples of a run as a lazy dataset; `path` is its folder, its index, a copy or one shard.

    `chunks` makes dask arrays ({} means one sample each); `dialect` names the sample dimension as another tool does (one of
    DIALECTS). Raises StoreError when anything is missing or damaged. So does every later read of samples whose files were
    merged, overwritten or lost since then: a value that was not written never reads as NaN.
    """
    if dialect is not None and dialect not in DIALECTS:
        raise StoreError(f"dialect: {dialect!r} is not known; give one of {sorted(DIALECTS)}")
    if engine not in ENGINES:
        raise StoreError(f"engine: {engine!r} is not known; give one of {sorted(ENGINES)}")
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
    dim = str(dataset.attrs["sample_dim"])
    if dialect is not None and DIALECTS[dialect] != dim:
        dataset = dataset.rename({dim: DIALECTS[dialect]})
        dim = DIALECTS[dialect]
    if chunks is None:
        return dataset
    return dataset.chunk(_by_sample(chunks, dim))


def _by_sample(chunks: Mapping[str, int] | str | int, dim: str) -> Any:
    """One sample a chunk unless given: virtual datasets have no chunks of their own, so {} would put everything into one."""
    return chunks if isinstance(chunks, (str, int)) else {dim: 1, **chunks}
