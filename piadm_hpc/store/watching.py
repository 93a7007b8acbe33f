"""Checks before reading: a dataset that was opened before a run was merged or overwritten must not read as missing values.

HDF5 looks for the shards of an index by name whenever a field is read, and fills in missing values for those that are gone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import AbstractDataStore, BackendArray, H5NetCDFStore, NetCDF4DataStore
from xarray.core import indexing

from .errors import StoreError
from .shard import open_file

ENGINES: dict[str, Callable[[Path], AbstractDataStore]] = {
    "h5netcdf": lambda path: H5NetCDFStore.open(str(path)),
    "netcdf4": lambda path: NetCDF4DataStore.open(str(path)),  # type: ignore[no-untyped-call]
}

Stamp = tuple[int, int]
"""Inode and size of a file; its time of change is left out, since users touch files to keep them from being purged."""


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size


@dataclass(frozen=True)
class Watch:
    """The file that was opened, and the shards behind its rows: shard k holds rows `starts[k]` to `starts[k + 1]` - 1."""

    file: Path
    stamp: Stamp | None
    starts: tuple[int, ...]
    shards: tuple[tuple[Path, Stamp | None], ...]

    def require(self, rows: Iterable[int]) -> None:
        """Raise StoreError unless the file and the shards that hold `rows` are those that were opened."""
        wanted = sorted({bisect_right(self.starts, row) - 1 for row in rows}) if self.starts else []
        for path, stamp in [(self.file, self.stamp), *(self.shards[k] for k in wanted)]:
            if stamp is None or _stamp(path) != stamp:
                raise StoreError(f"{path} was merged, rewritten or removed after this dataset was opened; open {self.file} again")


def watch(path: Path) -> Watch:
    """The files behind a run's index, a copy or a shard at `path`, as they are now."""
    with open_file(path) as file:
        names = str(file.attrs["variables"]).split()
        virtual = names and file[names[0]].is_virtual
        sources = file[names[0]].virtual_sources() if virtual else []
    base = path.resolve().parent
    found = sorted((int(source.vspace.get_select_bounds()[0][0]), base / source.file_name) for source in sources)
    stamps = {shard: _stamp(shard) for _, shard in found}
    return Watch(path, _stamp(path), tuple(start for start, _ in found), tuple((shard, stamps[shard]) for _, shard in found))


class WatchedArray(BackendArray):
    """A lazy array [S, ...] that is read only while the files behind the wanted samples are those that were opened."""

    def __init__(self, inner: Any, watch: Watch):
        self.inner, self.watch = inner, watch
        self.shape, self.dtype = inner.shape, inner.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        rows = np.atleast_1d(np.arange(self.shape[0])[key[0]]).tolist()
        self.watch.require(rows)
        indexer = indexing.OuterIndexer if any(isinstance(part, np.ndarray) for part in key) else indexing.BasicIndexer
        try:
            values: np.ndarray = np.asarray(self.inner[indexer(key)])
        except (OSError, RuntimeError):
            self.watch.require(rows)
            raise
        # checked again: the files may have been removed while they were read
        self.watch.require(rows)
        return values


class WatchedStore(AbstractDataStore):
    """A store of xarray's whose fields are watched; everything else is the `inner` store's own."""

    def __init__(self, inner: Any, watch: Watch):
        self.inner, self.watch = inner, watch

    def load(self) -> tuple[Any, Any]:
        variables, attributes = self.inner.load()
        dim = str(attributes["sample_dim"])
        return {name: self._watched(v) if v.dims[:1] == (dim,) else v for name, v in variables.items()}, attributes

    def _watched(self, variable: xr.Variable) -> xr.Variable:
        lazy: Any = variable._data
        array = indexing.LazilyIndexedArray(WatchedArray(lazy.array, self.watch))
        return xr.Variable(variable.dims, array, variable.attrs, variable.encoding, fastpath=True)

    def get_encoding(self) -> dict[str, Any]:
        return dict(self.inner.get_encoding())

    def close(self) -> None:
        self.inner.close()
