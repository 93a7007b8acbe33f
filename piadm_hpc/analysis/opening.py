"""Opening a run in xarray as it is stored, or with the climatology of a model of anomalies added back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ..data.anomalies import NAMES, named_anomaly
from ..data.selection import Choice, taken
from ..schema.layout import STEP
from ..store.packs.records import ZARR
from ..store.reading import arranged, open_run, open_samples, require_dialect
from ..store.statistics.reading import open_statistics

if TYPE_CHECKING:
    from ..config.run import RunConfig
    from ..models.climatology import Climatology


def open_dataset(
    path: str | os.PathLike[str],
    *,
    absolute: bool = False,
    month: int | Sequence[int] | None = None,
    chunks: Mapping[str, int] | str | int | None = None,
    engine: str = "h5netcdf",
    dialect: str | None = None,
    flat: bool = False,
    statistics: bool = False,
    select: Mapping[str, Choice] | None = None,
) -> xr.Dataset:
    """Open the samples of a run as a lazy dataset; `path` is its folder, its index, a copy or one shard.

    `chunks` makes dask arrays ({} means one sample each); `dialect` names the sample dimension as another tool does (one of
    DIALECTS). Samples of several conditions have the dimensions `realization` and `condition`, forecasts `init_time`,
    `realization` and `lead_time`; they are dask arrays where dask is installed, and are read at once without it. With `flat`
    they stay along one dimension. Raises StoreError when anything is missing or damaged. So does every later read of samples
    whose files were merged, overwritten or lost since then: a value that was not written never reads as NaN.

    With `absolute`, the climatology that was removed before training is added to samples of a model of anomalies, which get the
    names of the absolute field; they too are dask arrays where dask is installed. If the climatology is monthly, `month` (1 to
    12) selects the month, for all samples or in turn: sample k has month k modulo their number. It is left out if the run itself
    knows its months, from its conditions or its observations, and is stored as the coordinate `month`. Samples that are absolute
    already do not change. Raises ValueError for months that are missing or wrong, for conformers,
    and for anomalies whose model is not found or keeps no climatology.

    With `statistics`, the stored statistics of the run's members are opened instead.

    `select` takes one value along dimensions, such as `{"step": 3, "plev": 500}`, in the units of the coordinate, which stays as
    a scalar. Raises ValueError for a dimension or a value that is not there, with those that are.
    """
    found = _opened(path, absolute, month, chunks, engine, dialect, flat, statistics)
    if not select:
        return found
    try:
        part = taken(found, select)
    except BaseException:
        found.close()
        raise
    part.set_close(found.close)
    return part


def _opened(
    path: str | os.PathLike[str], absolute: bool, month: int | Sequence[int] | None,
    chunks: Mapping[str, int] | str | int | None, engine: str, dialect: str | None, flat: bool, statistics: bool,
) -> xr.Dataset:  # fmt: skip
    """The samples or the statistics of a run, see `open_dataset`."""
    if statistics:
        if absolute or month is not None or flat or dialect is not None:
            raise ValueError("statistics: opened as they are stored; leave absolute, month, flat and dialect out")
        found = open_statistics(path)
        return found if chunks is None else found.chunk(chunks)
    if not absolute:
        if month is not None:
            raise ValueError("month: only for absolute samples; give absolute (--absolute) too, or leave it out")
        return open_run(path, chunks=chunks, engine=engine, dialect=dialect, flat=flat)
    require_dialect(dialect)
    stored = open_samples(path, engine=engine)
    try:
        found = arranged(_made_absolute(stored, Path(path), month), chunks=chunks, dialect=dialect, flat=flat)
    except BaseException:
        stored.close()
        raise
    if found is not stored:
        found.set_close(stored.close)
    return found


def _made_absolute(dataset: xr.Dataset, path: Path, month: int | Sequence[int] | None) -> xr.Dataset:
    """Samples along one dimension with their climatology, or unchanged if they are absolute already."""
    # imported here because samples as they are stored are opened without a model, and without torch
    from ..models.climatology import climatology_of
    from .report.report import run_model, stored_config

    if "topology" in dataset:
        raise ValueError(f"absolute: {path} holds conformers, which have no climatology; leave it out")
    folder = path if path.is_dir() and path.name != ZARR else path.parent
    config = stored_config(folder, dataset)
    config = config.replace(model=str(run_model(folder, config)))
    climatology = climatology_of(Path(config.model), dataset.attrs.get("model_sha256"))
    if climatology is None:
        _require_absolute(dataset, path)
    elif climatology.monthly:
        ids = dataset[str(dataset.attrs["sample_dim"])].values.astype(np.int64)
        return _with_climatology(dataset, climatology, _months(ids, config, month, climatology.months, _first_month(dataset)))
    if month is not None:
        what = "the samples are absolute already" if climatology is None else "the model's climatology is one mean for all months"
        raise ValueError(f"month: {what}; leave it out")
    return dataset if climatology is None else _with_climatology(dataset, climatology, None)


def _require_absolute(dataset: xr.Dataset, path: Path) -> None:
    """Raise ValueError if samples of a model without a climatology are anomalies by their names."""
    names = [name for name in str(dataset.attrs["variables"]).split() if named_anomaly(dataset[name].attrs)]
    if names:
        raise ValueError(
            f"absolute: {', '.join(names)} of {path} are anomalies by their names, and the model was trained on them as they are "
            "and keeps no climatology; add the one that your data were made with"
        )


def _first_month(dataset: xr.Dataset) -> np.ndarray | None:
    """The month in which all sequences of the training data began, if there is one."""
    first = dataset[STEP].attrs.get("first_month") if STEP in dataset.coords else None
    return None if first is None else np.array([int(first)], dtype=np.int32)


def _months(
    ids: np.ndarray,
    config: RunConfig,
    month: int | Sequence[int] | None,
    known: Sequence[int],
    of_sequences: np.ndarray | None,
) -> np.ndarray:
    """The month of every sample, 1 to 12: those that the run knows, or else those that are given, in turn. Raises ValueError."""
    # imported here as above
    from ..run.conditions import months_of_run

    own, given = months_of_run(config), None if month is None else _checked(month)
    own = of_sequences if own is None else own
    months = own if own is not None else given
    if months is None:
        raise ValueError(
            "month: the model's climatology is monthly and the run does not determine the months of its samples; give month "
            "(--month 7), or a month for every sample in turn (--month 1-12)"
        )
    found = months[ids % len(months)]
    if own is not None and given is not None and not np.array_equal(given[ids % len(given)], found):
        raise ValueError(f"month: the run was drawn for month {_listed(own)}, not {_listed(given)}; leave month out")
    if absent := sorted(set(found.tolist()) - set(known)):
        raise ValueError(f"month: the model knows the climatology of months {_listed(known)}, not of {_listed(absent)}")
    return np.asarray(found)


def _checked(month: int | Sequence[int]) -> np.ndarray:
    months = np.atleast_1d(np.asarray(month))
    if months.ndim != 1 or months.size == 0 or months.dtype.kind not in "iu" or not np.all((months >= 1) & (months <= 12)):
        raise ValueError(f"month: got {month!r}; give a whole number from 1 to 12, or one for every sample in turn")
    return months.astype(np.int32)


def _with_climatology(dataset: xr.Dataset, climatology: Climatology, months: np.ndarray | None) -> xr.Dataset:
    """Add the climatology of every sample's month (of all times, without `months`), lazily where dask is installed."""
    dim = str(dataset.attrs["sample_dim"])
    months = None if months is None else _of_steps(months, dataset)
    rows = np.zeros(dataset.sizes[dim], dtype=np.int64) if months is None else months.astype(np.int64) - 1
    axes = (dim, STEP)[: rows.ndim]
    found = {}
    for name, fields in climatology.fields.items():
        array = dataset[name]
        if find_spec("dask") is not None:
            array = array.chunk({dim: dataset.sizes.get("condition", 1)})
        grid = [str(one) for one in array.dims if one not in (dim, STEP)]
        added = xr.apply_ufunc(
            _added, array, xr.DataArray(rows, dims=axes), kwargs={"climatology": fields}, input_core_dims=[grid, []],
            output_core_dims=[grid], dask="parallelized", output_dtypes=[array.dtype],
        )  # fmt: skip
        kept = {key: value for key, value in array.attrs.items() if key not in NAMES}
        found[name] = added.transpose(*array.dims).assign_attrs(kept | dict(climatology.names.get(name, {})))
        found[name].encoding = dict(dataset[name].encoding)
    history = f"{dataset.attrs.get('history', '')}\npiadm_hpc added the climatology of the model".strip()
    opened = dataset.assign(found).assign_attrs(history=history)
    if months is None:
        return opened
    attrs = {"long_name": "calendar month of the climatology that was added", "units": "1"}
    return opened.assign_coords(month=(axes, months.astype(np.int32), attrs))


def _of_steps(months: np.ndarray, dataset: xr.Dataset) -> np.ndarray:
    """The months [samples, steps] of sequences from those of their first steps; months [samples] of single times unchanged."""
    if STEP not in dataset.coords:
        return months
    step = dataset[STEP]
    if "months_per_step" not in step.attrs:
        raise ValueError(
            "absolute: the steps of the sequences are no whole calendar months apart, so the months of most are unknown; add the "
            "climatology (array climatology of the model's reference.h5) yourself"
        )
    return np.asarray((months[:, None] - 1 + np.arange(step.size) * int(step.attrs["months_per_step"])) % 12 + 1)


def _added(fields: np.ndarray, rows: np.ndarray, *, climatology: np.ndarray) -> np.ndarray:
    return np.asarray(fields + climatology[rows], dtype=fields.dtype)


def _listed(months: Sequence[int] | np.ndarray) -> str:
    return ", ".join(str(month) for month in dict.fromkeys(int(month) for month in months))
