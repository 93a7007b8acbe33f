"""A test that HDF5 can write, lock and read back files in a folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import h5py
import numpy as np

from .errors import StoreError
from .files import whole_file


def probe(folder: Path) -> str:
    """Write a small file like a shard and read it back; returns one line about what works. Raises StoreError with advice."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".piadm-probe-") as inner:
            path, values = Path(inner) / "probe.h5", np.arange(1000.0)
            with whole_file(path, needed=values.nbytes) as (file, _):
                file.create_dataset("values", data=values, chunks=(100,), compression="gzip", shuffle=True)
            with h5py.File(path, "r") as file:
                if not np.array_equal(file["values"][()], values):
                    raise StoreError(f"{folder}: HDF5 does not read back what it wrote; use another file system")
    except OSError as error:
        locked = "lock" in str(error).lower()
        advice = "set HDF5_USE_FILE_LOCKING=FALSE (safe here: every file has one writer)" if locked else "choose another folder"
        raise StoreError(f"{folder}: {error}; {advice}") from error
    locking = os.environ.get("HDF5_USE_FILE_LOCKING", "default")
    return f"HDF5 {h5py.version.hdf5_version} writes and reads zlib in {folder.resolve()} (file locking: {locking})"
