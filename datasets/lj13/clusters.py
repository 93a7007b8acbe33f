"""The cluster of 13 Lennard-Jones atoms: its energy, and files of conformers from tables of equilibrium configurations.

    python clusters.py test_split_LJ13-1000.npy val_split_LJ13-1000.npy --folder clusters   # clusters/*.h5

Tables have one configuration a row, 39 coordinates, as in jarridrb/DEM (MIT). Energies are in kT and lengths in units of the pair
potential's minimum, which the files call nanometres:

    E(x) = 2 sum over pairs (r^-12 - 2 r^-6) + sum over atoms |x_i - mean|^2 / 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from piadm_hpc.data.superpose import centred
from piadm_hpc.schema.layout import conformer_layout
from piadm_hpc.schema.topology import Atom, Topology
from piadm_hpc.store.shard import write_samples

ATOMS = 13


def energy(positions: np.ndarray) -> np.ndarray:
    """Energies [n] in kT of positions [n, atoms, 3]."""
    first, second = np.triu_indices(positions.shape[1], 1)
    square = ((positions[:, first] - positions[:, second]) ** 2).sum(-1)
    return np.asarray(2 * (square**-6 - 2 * square**-3).sum(1) + (centred(positions) ** 2).sum((1, 2)) / 2)


def virial(positions: np.ndarray) -> np.ndarray:
    """x . grad E [n]: its mean in equilibrium is the number of degrees of freedom, 36."""
    first, second = np.triu_indices(positions.shape[1], 1)
    square = ((positions[:, first] - positions[:, second]) ** 2).sum(-1)
    return np.asarray(24 * (square**-3 - square**-6).sum(1) + (centred(positions) ** 2).sum((1, 2)))


def convert(table: Path, folder: Path, stride: int) -> Path:
    """One table as a file of conformers, with its energies."""
    positions = centred(np.load(table)[::stride].reshape(-1, ATOMS, 3).astype(np.float64))
    topology = Topology(tuple(Atom("AR", "Ar", "CLU", 1) for _ in range(ATOMS)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{table.stem}.h5"
    write_samples(
        path,
        layout=conformer_layout(topology),
        ids=tuple(range(len(positions))),
        fields={"coordinates": positions.astype(np.float32)},
        per_sample={"potential_energy": energy(positions).astype(np.float32)},
        attributes={"title": "13 Lennard-Jones atoms in equilibrium", "source": "jarridrb/DEM (MIT)"},
        compression="zlib",
    )
    (folder / "topology.pdb").write_text(topology.to_pdb(positions[0]), encoding="utf-8")
    found = virial(positions)
    mean, error = found.mean(), found.std() / len(found) ** 0.5
    print(f"{path}: {len(found)} configurations, energy {energy(positions).mean():.2f} kT, virial {mean:.2f} +- {error:.2f} (36)")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, default=Path("clusters"))
    parser.add_argument("--stride", type=int, default=1)
    given = parser.parse_args()
    for one in given.tables:
        convert(one, given.folder, given.stride)
