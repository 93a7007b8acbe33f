"""Files of conformers that open in MDAnalysis (H5MD 1.1) and mdtraj (its HDF5 convention) as well as in xarray.

All of them share one array of positions: mdtraj and xarray find it at the root, H5MD through hard links. Attributes that are
lists of text are stored as bytes of one length, since the netCDF C library fails on text of variable length; H5MD's `unit` is
text, since MDAnalysis accepts nothing else there.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ..schema.layout import Layout
from ..schema.topology import Topology
from .files import write_text

POSITIONS, TOPOLOGY = "coordinates", "topology.pdb"
EXTRA = ("time", "step", "topology", "topology_text", "h5md", "particles")
PANDE = {
    "conventions": "Pande",
    "conventionVersion": "1.1",
    "program": "piadm_hpc",
    "programVersion": "1",
    "application": "piadm_hpc",
}


def add_readers(file: h5py.File, topology: Topology, sample_dim: str, num_samples: int) -> None:
    """Add the topology, a formal time for each sample, and H5MD's group to a file with `coordinates` [S, atom, 3]."""
    for name, value in PANDE.items():
        file.attrs[name] = np.bytes_(value)
    positions = file[POSITIONS]
    positions.attrs["units"], positions.attrs["unit"] = np.bytes_("nanometers"), "nm"
    # both formats require times; samples have none, so the row of each takes their place
    time = file.create_dataset("time", data=np.arange(num_samples, dtype="f4"))
    time.attrs["units"], time.attrs["unit"] = np.bytes_("picoseconds"), "ps"
    time.attrs["long_name"] = "formal time: the row of the sample"
    step = file.create_dataset("step", data=np.arange(num_samples, dtype="i8"))
    for dataset in (time, step):
        dataset.dims[0].attach_scale(file[sample_dim])
    # its own dimension scale, or xarray would invent a dimension
    file.create_dataset("topology_text", data=np.zeros(1, dtype="i1")).make_scale("topology_text")
    text = file.create_dataset("topology", data=np.array([topology.to_json().encode()]))
    text.dims[0].attach_scale(file["topology_text"])
    _h5md(file)
    group = file.create_group("particles/conformers/position")
    group["value"], group["time"], group["step"] = positions, time, step


def _h5md(file: h5py.File) -> None:
    """Write H5MD's groups for the creator of the file and for the box, which does not exist."""
    file.create_group("h5md").attrs["version"] = np.array([1, 1], dtype="i4")
    file.create_group("h5md/author").attrs["name"] = np.bytes_("n/a")
    creator = file.create_group("h5md/creator")
    creator.attrs["name"], creator.attrs["version"] = np.bytes_("piadm_hpc"), np.bytes_("1")
    box = file.create_group("particles/conformers/box")
    box.attrs["dimension"], box.attrs["boundary"] = 3, np.array([b"none"] * 3)


def with_topology(path: Path, layout: Layout) -> Path:
    """Write topology.pdb, with the positions of the first conformer, beside a file of conformers; returns the file."""
    if layout.topology is not None:
        with h5py.File(path, "r") as file:
            write_text(path.with_name(TOPOLOGY), layout.topology.to_pdb(file[POSITIONS][0]))
    return path


def stored_topology(file: h5py.File) -> Topology | None:
    """Read the topology of a file of conformers; None for a file of fields."""
    return Topology.from_json(bytes(file["topology"][0]).decode()) if "topology" in file and "particles" in file else None
