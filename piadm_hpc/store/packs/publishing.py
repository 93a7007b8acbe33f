"""The metadata of a run's Zarr store: coordinates, costs, attributes, and the number of rows, consolidated."""

from __future__ import annotations

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...schema.layout import Layout
from ..conventions import BLOCK, PER_SAMPLE, realization
from ..errors import StoreError
from ..files import PARTIAL, digest, sync_folder, write_text
from ..shard import Shard
from ..statistics.parts import costs_of
from .records import PLACE, ZARR, array_options, rows_in_shard

PUBLISHED = "published.json"
LONGEST = 4096  # rows of a chunk of what is recorded per sample


def publish(folder: Path, layout: Layout, records: Sequence[Shard], attributes: Mapping[str, Any]) -> None:
    """Write everything but the fields of the samples of `records`, which follow from the ids without gaps. Raises StoreError.

    It is written elsewhere and moved file by file, the metadata of the whole store last: a reader sees either the previous rows
    or the new ones, and existing rows do not change.
    """
    import zarr

    root = folder / ZARR
    staging = root / f"{uuid.uuid4().hex}{PARTIAL}"
    ids, costs = costs_of(records)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # text of fixed length is not in the specification of zarr yet
            small = _small(layout, ids, costs, attributes)
            rows = [(str(name), array) for name, array in small.variables.items() if array.dims[:1] == (layout.sample_dim,)]
            encoding = {name: {"chunks": (LONGEST, *array.shape[1:])} for name, array in rows}
            small.to_zarr(staging, zarr_format=3, consolidated=False, encoding=encoding)
            for variable in layout.variables:
                options = array_options(layout, variable, rows_in_shard(layout))
                shape = (len(ids), *layout.shape(variable))
                auxiliary = [(name, set(c.dims)) for name, c in layout.coordinates.items() if c.dims != (name,)]
                extra = [name for name, dims in auxiliary if dims <= set(variable.dims)]
                attrs = _words(variable.attrs) | ({"coordinates": " ".join(extra)} if extra else {})
                zarr.create_array(str(staging), name=variable.name, shape=shape, attributes=attrs, **options)
            zarr.consolidate_metadata(str(staging))
        files = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
        for name in sorted(files, key=lambda each: (each.name == "zarr.json", -len(each.parts))):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, root / name)
        sync_folder(root)
        write_text(folder / PLACE / PUBLISHED, json.dumps({"rows": len(ids), "files": {str(n): digest(root / n) for n in files}}))
    except OSError as error:
        raise StoreError(f"cannot write {root}: {error.strerror or error}; free some space, and start again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def published_problem(folder: Path) -> tuple[str, int]:
    """A problem with the metadata of a run's Zarr store, or with coordinates and costs in it; and the number of rows they show.

    A reader would read a missing chunk as the fill value.
    """
    try:
        words = json.loads((folder / PLACE / PUBLISHED).read_text(encoding="utf-8"))
        rows, files = int(words["rows"]), dict(words["files"])
    except FileNotFoundError:
        return f"{ZARR} has no metadata, since the run was not ended", 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{PLACE}/{PUBLISHED} is damaged ({error})", 0
    for name, known in files.items():
        path = folder / ZARR / str(name)
        if ".." in path.parts or path.is_symlink() or not path.is_file():
            return f"{ZARR}/{name} is missing", rows
        if digest(path) != known:
            return f"{ZARR}/{name} is damaged: its checksum differs", rows
    return "", rows


def _small(layout: Layout, ids: Sequence[int], costs: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> xr.Dataset:
    rows = realization(ids, dim=layout.sample_dim)
    found: dict[str, Any] = {layout.sample_dim: (rows.dims, rows.values, _words(rows.attrs))}
    for name, coordinate in layout.coordinates.items():
        values = np.asarray(coordinate.values)
        values = values.astype(np.str_) if values.dtype.kind in "SUO" else values
        found[name] = (coordinate.dims, values, _words(coordinate.attrs))
    if blocks := [array.shape[1] for array in costs.values() if array.ndim == 2]:
        found[BLOCK] = ((BLOCK,), np.arange(blocks[0], dtype=np.int32), {"long_name": "block of steps", "units": "1"})
    dataset = xr.Dataset(coords=found)
    for name, array in costs.items():
        dataset[name] = ((layout.sample_dim, BLOCK)[: array.ndim], array, _words(PER_SAMPLE[name].attrs))
    names = " ".join(variable.name for variable in layout.variables)
    return dataset.assign_attrs(_words(attributes) | {"sample_dim": layout.sample_dim, "variables": names})


def _words(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in forms that JSON can express."""
    plain = {name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value for name, value in attrs.items()}
    kept = (str, int, float, bool, list)
    return {name: value if isinstance(value, kept) else str(value) for name, value in plain.items() if value is not None}
