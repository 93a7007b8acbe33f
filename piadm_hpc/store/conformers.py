"""What makes a file of conformers open in MDAnalysis (H5MD 1.1) and mdtraj (its HDF5 convention) as it does in xarray.

One array of positions serves all of them: H5MD reads it through hard links, mdtraj and xarray at the root. Arrays of text
are bytes of one length, since free-length text in attributes makes the netCDF C library fail; H5MD's `unit` is text,
since MDAnalysis takes nothing else there.
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
    """Add the topology, a formal time per sample, and H5MD's group, all about the dataset `coordinates` [S, atom, 3]."""
    for name, value in PANDE.items():
        file.attrs[name] = np.bytes_(value)
    positions = file[POSITIONS]
    positions.attrs["units"], positions.attrs["unit"] = np.bytes_("nanometers"), "nm"
    # both formats want times; samples have none, so their row stands in for it
    time = file.create_dataset("time", data=np.arange(num_samples, dtype="f4"))
    time.attrs["units"], time.attrs["unit"] = np.bytes_("picoseconds"), "ps"
    time.attrs["long_name"] = "formal time: the row of the sample"
    step = file.create_dataset("step", data=np.arange(num_samples, dtype="i8"))
    for dataset in (time, step):
        dataset.dims[0].attach_scale(file[sample_dim])
    # a scale of its own, or xarray would make a dimension up
    file.create_dataset("topology_text", data=np.zeros(1, dtype="i1")).make_scale("topology_text")
    text = file.create_dataset("topology", data=np.array([topology.to_json().encode()]))
    text.dims[0].attach_scale(file["topology_text"])
    _h5md(file)
    group = file.create_group("particles/conformers/position")
    group["value"], group["time"], group["step"] = positions, time, step


def _h5md(file: h5py.File) -> None:
    """The groups that say who wrote the file, and that there is no box."""
    file.create_group("h5md").attrs["version"] = np.array([1, 1], dtype="i4")
    file.create_group("h5md/author").attrs["name"] = np.bytes_("n/a")
    creator = file.create_group("h5md/creator")
    creator.attrs["name"], creator.attrs["version"] = np.bytes_("piadm_hpc"), np.bytes_("1")
    box = file.create_group("particles/conformers/box")
    box.attrs["dimension"], box.attrs["boundary"] = 3, np.array([b"none"] * 3)


def with_topology(path: Path, layout: Layout) -> Path:
    """Put topology.pdb, with the first conformer's positions, beside a file of conformers; returns the file."""
    if layout.topology is not None:
        with h5py.File(path, "r") as file:
            write_text(path.with_name(TOPOLOGY), layout.topology.to_pdb(file[POSITIONS][0]))
    return path


def stored_topology(file: h5py.File) -> Topology | None:
    """The topology of a file of conformers; None for a file of fields."""
    return Topology.from_json(bytes(file["topology"][0]).decode()) if "topology" in file and "particles" in file else None
