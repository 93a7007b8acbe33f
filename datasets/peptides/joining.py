"""Conformer files of all walkers, with the weights that remove their biases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm as mm
from peptide import TEMPERATURE, described, molecule
from walkers import FRACTIONS, FRAME

from piadm_hpc.schema.layout import conformer_layout
from piadm_hpc.store.shard import write_samples

KT = 8.31446261815324e-3 * TEMPERATURE  # kJ/mol


def log_weights(free: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Logarithms of the weights of frames, of mean one, from the free energies [n] in kT, of which the bias removes a fraction.

    `run` [n] is the index of that fraction in `FRACTIONS`. Solves MBAR's equations for the free energies of
    the biased ensembles, iterated to 1e-9.
    """
    counts = np.bincount(run, minlength=len(FRACTIONS))
    present = np.flatnonzero(counts)
    pulls = np.array(FRACTIONS)[present, None] * free  # minus the bias in kT, [ensemble, n]
    shifts = np.zeros(len(present))
    while True:
        mixture = np.logaddexp.reduce(np.log(counts[present, None]) + shifts[:, None] + pulls, axis=0)
        estimates = -np.logaddexp.reduce(pulls - mixture, axis=1)
        estimates -= estimates[0]
        if np.abs(estimates - shifts).max() < 1e-9:
            return -mixture - np.log(np.mean(np.exp(-mixture)))
        shifts = estimates


def join(folder: Path, residues: int) -> None:
    """Write one conformer file per walker from its segments, and topology.pdb beside them."""
    peptide = molecule(residues)
    topology = described(peptide.topology)
    (folder / "topology.pdb").write_text(topology.to_pdb(peptide.positions), encoding="utf-8")
    walkers = sorted({path.name[:9] for path in folder.glob("walker_*_*.npz")})
    read = [gather(sorted(folder.glob(f"{walker}_*.npz"))) for walker in walkers]
    run = [np.full(len(arrays["bias"]), int(walker[-2:]) % len(FRACTIONS)) for walker, arrays in zip(walkers, read, strict=True)]
    flat = np.concatenate(run)
    free = -np.concatenate([arrays["bias"] for arrays in read]) / KT / np.array(FRACTIONS)[flat]
    logs = np.split(log_weights(free, flat), np.cumsum([len(part) for part in run])[:-1])
    for walker, arrays, log_weight in zip(walkers, read, logs, strict=True):
        write_samples(
            folder / f"{walker}.h5",
            layout=conformer_layout(topology),
            ids=tuple(range(len(log_weight))),
            fields={"coordinates": arrays["coordinates"] - arrays["coordinates"].mean(1, keepdims=True)},
            per_sample={
                "log_weight": log_weight.astype(np.float32),
                "potential_energy": arrays["energy"].astype(np.float32),
            },
            attributes={
                "title": f"ACE-ALA{residues}-NME, Amber ff14SB with GBn2, 300 K, weighted to remove a fixed bias over (phi, psi)",
                "source": f"OpenMM {mm.version.version}, frames {FRAME:g} ps apart",
            },
            compression="zlib",
        )
        print(f"{walker}.h5: {len(log_weight)} frames", flush=True)


def gather(paths: list[Path]) -> dict[str, np.ndarray]:
    """Positions, energies and biases of all segments, one after another."""
    parts = [np.load(path) for path in paths]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("coordinates", "energy", "bias")}
