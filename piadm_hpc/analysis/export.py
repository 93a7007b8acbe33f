"""`piadm export`: the samples of a run in file formats of other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from ..data.selection import Choice
from .opening import open_dataset
from .verify.conformers import load_conformers, trajectory_of

CONFORMERS, FIELDS = ("xtc", "dcd", "pdb"), ("netcdf", "zarr")
SUFFIX = {"netcdf": ".nc", "zarr": ".zarr"}


def export(
    run: str | os.PathLike[str],
    form: str,
    to: str | os.PathLike[str] | None = None,
    *,
    absolute: bool = False,
    month: int | Sequence[int] | None = None,
    select: Mapping[str, Choice] | None = None,
) -> Path:
    """Write the samples of a run in the format `form`; returns the path, by default `samples.*` beside samples.h5.

    Conformers are exported to xtc (rounded to 1e-3 nm), dcd or pdb (rounded to 1e-4 nm), fields to netcdf or zarr. `absolute`
    adds the climatology of a model of anomalies, of `month` if it is monthly, and `select` takes one value along dimensions of
    fields, as `piadm_hpc.open` does. Raises ValueError for a format of the other kind, for a path that exists, for a package
    that is not installed, and for months and values that are wrong.
    """
    folder = Path(run)
    with open_dataset(folder, absolute=absolute, month=month, flat=True, select=select) as dataset:
        kind, forms = ("conformers", CONFORMERS) if "topology" in dataset else ("fields", FIELDS)
        if form not in forms:
            raise ValueError(f"--to {form}: {folder} holds {kind}, which are exported to {', '.join(forms)}")
        if kind == "conformers" and select:
            raise ValueError(f"--select {', '.join(select)}: only for fields; leave it out")
        base = folder if folder.is_dir() else folder.parent
        target = Path(to) if to is not None else base / f"samples{SUFFIX.get(form, f'.{form}')}"
        if target.exists():
            raise ValueError(f"{target} is there already; remove it or give another file with --out")
        if kind == "conformers":
            conformers = load_conformers(folder / "samples.h5" if folder.is_dir() else folder, "samples")
            trajectory_of(conformers).save(str(target))
        elif form == "netcdf":
            dataset.to_netcdf(target, engine="h5netcdf")
        else:
            _to_zarr(dataset, target)
    return target


def _to_zarr(dataset: xr.Dataset, target: Path) -> None:
    try:
        import zarr  # noqa: F401
    except ImportError:
        raise ValueError("export to zarr needs zarr: pip install 'piadm_hpc[climate]'") from None
    # zarr does not know the filters of HDF5
    plain = dataset.drop_encoding()
    for name in plain.variables:
        if plain[name].dtype.kind == "O":
            plain[name] = plain[name].astype(np.str_)
    plain.to_zarr(target, mode="w-")
