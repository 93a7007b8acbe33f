"""The parts that shards, indexes and joined files have in common: axes, coordinates, costs and attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..schema.layout import Coordinate, Layout, Variable
from .conformers import EXTRA, PANDE, add_readers, stored_topology
from .conventions import BLOCK, PER_SAMPLE, realization

MAX_CHUNK_BYTES = 16 * 2**20
SMALL_CHUNK_BYTES = 2**16
FORMAT = 1
FILTERS: dict[str, dict[str, Any]] = {
    # with the checksum a reader notices bytes that changed on disk; every netCDF library verifies it
    "zlib": {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True},
    "none": {"fletcher32": True},
}


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The chunk of one sample of the given `shape`: the whole field, halved along its leading dimensions above 16 MB."""
    chunk = list(shape)
    while 4 * np.prod(chunk, dtype=np.int64) > MAX_CHUNK_BYTES:
        longest = next(axis for axis, size in enumerate(chunk) if size > 1)
        chunk[longest] = (chunk[longest] + 1) // 2
    return (1, *chunk)


def rows_in_chunk(layout: Layout, shape: tuple[int, ...]) -> int:
    """How many samples of [S, *shape] share a chunk: one field, or about 64 kB of conformers."""
    if layout.topology is None:
        return 1
    return max(1, min(shape[0], SMALL_CHUNK_BYTES // (4 * int(np.prod(shape[1:])))))


def set_attributes(target: h5py.HLObject, attributes: Mapping[str, Any]) -> None:
    """Write attributes in forms that every netCDF reader accepts; None is left out."""
    for name, value in attributes.items():
        if value is not None:
            target.attrs[name] = _readable(value)


def _readable(value: Any) -> Any:
    """Convert lists of text to bytes of one length: the netCDF C library fails on text of variable length."""
    if isinstance(value, (bool, np.bool_)):
        return np.int8(value)
    if isinstance(value, Mapping):
        return json.dumps(value, default=str)
    if isinstance(value, (list, tuple, np.ndarray)):
        array = np.asarray(value)
        return np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
    return value if isinstance(value, (str, bytes, int, float, np.generic)) else str(value)


def write_skeleton(
    file: h5py.File, layout: Layout, ids: Sequence[int], per_sample: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
    """Write everything but the fields: attributes, the sample axis, coordinates, and `per_sample` arrays [S] or [S, block]."""
    set_attributes(file, attributes)
    set_attributes(file, {"piadm_format": FORMAT, "sample_dim": layout.sample_dim})
    file.attrs["variables"] = " ".join(variable.name for variable in layout.variables)
    axes = {name: c for name, c in layout.coordinates.items() if c.dims == (name,)}
    axes[layout.sample_dim] = realization(ids, dim=layout.sample_dim)
    num_blocks = [array.shape[1] for array in per_sample.values() if array.ndim == 2]
    if num_blocks:
        axes[BLOCK] = Coordinate(
            (BLOCK,), np.arange(num_blocks[0], dtype=np.int32), {"long_name": "block of steps", "units": "1"}
        )
    for name, coordinate in axes.items():
        _small(file, name, coordinate.values).make_scale(name)
        set_attributes(file[name], coordinate.attrs)
    for name, coordinate in layout.coordinates.items():
        if name not in axes:
            _named(file, name, coordinate.dims, coordinate.values, coordinate.attrs)
    for name, array in sorted(per_sample.items()):
        dims = (layout.sample_dim, BLOCK)[: array.ndim]
        _named(file, name, dims, array, PER_SAMPLE[name].attrs)


def _named(file: h5py.File, name: str, dims: tuple[str, ...], values: np.ndarray, attrs: Mapping[str, Any]) -> None:
    dataset = _small(file, name, values)
    if dataset.dtype.kind == "f":
        dataset.attrs["_FillValue"] = dataset.dtype.type(np.nan)
    set_attributes(dataset, attrs)
    attach(file, dataset, dims)


def _small(file: h5py.File, name: str, values: np.ndarray) -> h5py.Dataset:
    """Create a dataset that is read as a whole, with a checksum where HDF5 offers one."""
    array = np.asarray(values)
    if array.dtype.kind in "SUO":
        return file.create_dataset(name, data=array.astype(object), dtype=h5py.string_dtype())
    packed = {"chunks": array.shape, **FILTERS["zlib"]} if array.ndim and array.size else {}
    fill = {"fillvalue": np.nan} if array.dtype.kind == "f" else {}
    return file.create_dataset(name, data=array, **packed, **fill)


def attach(file: h5py.File, dataset: h5py.Dataset, dims: Sequence[str]) -> None:
    """Name the dimensions of a dataset by HDF5 dimension scales, where netCDF readers look for them."""
    for axis, dim in enumerate(dims):
        dataset.dims[axis].attach_scale(file[dim])


def finish_variable(file: h5py.File, layout: Layout, variable: Variable, dataset: h5py.Dataset, num_missing: int) -> None:
    """Add attributes and dimensions to the dataset of one variable, which holds `num_missing` NaN on purpose."""
    set_attributes(dataset, variable.attrs)
    dataset.attrs["_FillValue"] = np.float32(np.nan)
    dataset.attrs["num_missing"] = np.int64(num_missing)
    further = {
        name: c for name, c in layout.coordinates.items() if c.dims != (name,) and name != variable.attrs.get("grid_mapping")
    }
    extra = [name for name, c in further.items() if set(c.dims) <= set(variable.dims)]
    if extra and "coordinates" not in variable.attrs:
        dataset.attrs["coordinates"] = " ".join(extra)
    attach(file, dataset, (layout.sample_dim, *variable.dims))


def finish_file(file: h5py.File, layout: Layout, num_samples: int) -> None:
    """Mark a file as complete, which is written last: a file without the mark was not finished."""
    if layout.topology is not None:
        add_readers(file, layout.topology, layout.sample_dim, num_samples)
    file.attrs["num_samples"] = np.int64(num_samples)
    file.attrs["complete"] = np.int8(1)


def read_layout(file: h5py.File) -> Layout:
    """Read the layout that a file was written with."""
    sample_dim = str(file.attrs["sample_dim"])
    names = str(file.attrs["variables"]).split()
    topology = stored_topology(file)
    ours = {sample_dim, BLOCK, *(EXTRA if topology is not None else ())}
    axes = {name for name in set(file) - ours if file[name].is_scale}
    extra = set(file) - axes - set(names) - set(PER_SAMPLE) - ours
    coordinates = {name: Coordinate(_dims(file[name]) or (name,), _values(file[name]), _attrs(file[name])) for name in axes}
    coordinates |= {name: Coordinate(_dims(file[name]), _values(file[name]), _attrs(file[name])) for name in sorted(extra)}
    variables = tuple(Variable(name, _dims(file[name])[1:], _attrs(file[name])) for name in names)
    return Layout(variables, coordinates, sample_dim, topology)


def _dims(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(Path(dim[0].name).name for dim in dataset.dims if len(dim))


def _values(dataset: h5py.Dataset) -> np.ndarray:
    return np.asarray(dataset.asstr()[...] if h5py.check_string_dtype(dataset.dtype) else dataset[...])


def _attrs(dataset: h5py.Dataset) -> dict[str, Any]:
    ours = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_FillValue", "num_missing", "coordinates"}
    return {name: value for name, value in dataset.attrs.items() if name not in ours}


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Read the global attributes of the run, without those that describe the file itself."""
    ours = {"piadm_format", "sample_dim", "variables", "num_samples", "complete", "shards", *PANDE}
    return {name: value for name, value in file.attrs.items() if name not in ours}
