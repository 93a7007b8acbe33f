"""Files of conformers in mdtraj's HDF5 convention, which this package's own files follow too, read without another library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..schema.topology import Topology
from .mistakes import named, undamaged

H5 = (".h5", ".h5md", ".hdf5")
NANOMETRES = ("nanometers", "nanometer", "nm")


@dataclass(frozen=True)
class StoredConformers:
    """Frames of a file: `positions` [n, atoms, 3] in nm, logarithms of their weights [n], and the atoms.

    `box` [n, 6] are the lengths in nm and the angles in degrees of a periodic box, None without one.
    """

    topology: Topology
    positions: np.ndarray
    log_weight: np.ndarray
    box: np.ndarray | None = None


def read_stored(path: Path, part: slice = slice(None)) -> StoredConformers | None:
    """The frames `part` of a file of conformers; None for any other file. ValueError for positions in other units."""
    if path.suffix not in H5 or not path.is_file():
        return None
    try:
        dataset = xr.open_dataset(path, engine="h5netcdf", phony_dims="access", decode_times=False)
    except (OSError, ValueError, KeyError, RuntimeError):
        return None  # the reader of other formats reports what is wrong
    with named(f"{path}:"), undamaged(), dataset:
        if "topology" not in dataset or "coordinates" not in dataset:
            return None
        units = text(dataset["coordinates"].attrs.get("units", NANOMETRES[0]))
        if units not in NANOMETRES:
            raise ValueError(f"coordinates are in {units!r}; mdtraj's convention is nanometers")
        topology = Topology.from_json(text(dataset["topology"].values.reshape(-1)[0]))
        positions = dataset["coordinates"][part].values.astype(np.float64)
        weights = dataset["log_weight"][part].values if "log_weight" in dataset else np.zeros(len(positions))
        sides = [dataset[name][part].values for name in ("cell_lengths", "cell_angles") if name in dataset]
        box = np.concatenate(sides, axis=-1) if len(sides) == 2 else None
    if positions.shape[1] != len(topology):
        raise ValueError(f"{path}: has positions of {positions.shape[1]} atoms, and a topology of {len(topology)}")
    return StoredConformers(topology, positions, weights.astype(np.float64), box)


def text(value: Any) -> str:
    """Return text that a file may store as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
