"""Opening trajectories: any format of MDAnalysis, and this package's files of conformers; failures told in words."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..schema.topology import Atom, Topology

ANGSTROM = 0.1  # nm
H5 = (".h5", ".h5md", ".hdf5")


@contextmanager
def told(structure: Path, paths: Sequence[Path]) -> Iterator[None]:
    """Failures of the reader in words, and its chatter left out."""
    try:
        import MDAnalysis  # noqa: F401
    except ImportError:
        raise ValueError("reading trajectories needs MDAnalysis: pip install 'piadm_hpc[molecules]'") from None
    if not structure.is_file():
        raise ValueError(f"{structure}: no such topology; give data.topology, a PDB file of the same atoms")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_universe(structure: Path, trajectory: Path | None = None) -> Any:
    """MDAnalysis' universe of a topology, with or without a trajectory; ValueError for files it cannot read."""
    import MDAnalysis

    files = [str(structure)] + ([] if trajectory is None else [str(trajectory)])
    form = {"format": "H5MD"} if trajectory is not None and trajectory.suffix in H5 else {}
    try:
        return MDAnalysis.Universe(*files, **form)
    except Exception as error:
        what = structure if trajectory is None else f"{trajectory} with topology {structure}"
        raise ValueError(f"{what}: MDAnalysis cannot read it: {_first_line(error)}; {_advice(error)}") from None


def _advice(error: Exception) -> str:
    if "atoms" in str(error):
        return "topology and trajectory must have the same atoms in the same order"
    return "check that the file is whole and its name tells its format"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def select(universe: Any, selection: str, structure: Path) -> Any:
    """The atoms of a selection; ValueError for words it is not made of, and for fewer than three atoms."""
    try:
        atoms = universe.select_atoms(selection)
    except Exception as error:
        raise ValueError(f"data.selection = {selection!r}: {_first_line(error)}; see MDAnalysis' selection language") from None
    if len(atoms) < 3:
        raise ValueError(f"data.selection = {selection!r} selects {len(atoms)} atoms of {structure}; at least 3 are needed")
    return atoms


def positions_of(universe: Any, atoms: Any) -> np.ndarray:
    """Positions [atoms, 3] in nm of the frame the universe stands at."""
    return np.asarray(atoms.positions, dtype=np.float64) * ANGSTROM


def topology_of(atoms: Any) -> Topology:
    """The selected atoms with their bonds; bonds that the file does not tell are guessed from distances."""
    if not hasattr(atoms.universe, "bonds"):
        atoms.guess_bonds()
    place = {int(index): k for k, index in enumerate(atoms.indices)}
    inside = [
        tuple(sorted((place[int(a)], place[int(b)]))) for a, b in atoms.bonds.indices if int(a) in place and int(b) in place
    ]
    chains = {segment: k for k, segment in enumerate(dict.fromkeys(atoms.segids.tolist()))}
    elements = atoms.elements if hasattr(atoms, "elements") else [name.lstrip("0123456789")[:1] for name in atoms.names]
    described = zip(atoms.names, elements, atoms.resnames, atoms.resids, atoms.segids, strict=True)
    return Topology(
        tuple(Atom(str(n), str(e).capitalize(), str(r), int(i), chains[s]) for n, e, r, i, s in described),
        tuple(sorted({(a, b) for a, b in inside})),
    )


def read_file(structure: Path, path: Path, selection: str, part: slice, *, unwrap: bool) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n, atoms, 3] in nm and logarithms of the weights [n] of one trajectory, of the frames in `part`."""
    universe = open_universe(structure, path)
    try:
        atoms = select(universe, selection, structure)
        if unwrap:
            _make_whole(universe, atoms, path)
        own = _own(path, structure, atoms, part) if path.suffix in H5 and not unwrap else None
        if own is not None:
            return own
        frames = _one_by_one(universe, atoms, part, path)
        return frames, np.zeros(len(frames))
    finally:
        universe.trajectory.close()


def _own(path: Path, structure: Path, atoms: Any, part: slice) -> tuple[np.ndarray, np.ndarray] | None:
    """What `_read` returns, all at once, of a conformer file of this package; None for other files."""
    with xr.open_dataset(path, engine="h5netcdf", phony_dims="access") as dataset:
        if "topology" not in dataset or "coordinates" not in dataset:
            return None
        stored = Topology.from_json(text(dataset["topology"].values[0])).atoms
        named = [str(name) for name in atoms.universe.atoms.names]
        other = [k for k, (atom, name) in enumerate(zip(stored, named, strict=True)) if atom.name != name]
        if other:
            k = other[0]
            raise ValueError(f"{path}: atom {k} is {stored[k].name}, and {named[k]} in {structure}; order atoms alike")
        frames = dataset["coordinates"].values[part, atoms.indices].astype(np.float64)
        weights = dataset["log_weight"].values[part] if "log_weight" in dataset else np.zeros(len(frames))
        return frames, weights.astype(np.float64)


def text(value: Any) -> str:
    """Text that a file may hold as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _one_by_one(universe: Any, atoms: Any, part: slice, path: Path) -> np.ndarray:
    steps, done = universe.trajectory[part], 0
    frames = np.empty((len(steps), len(atoms), 3), dtype=np.float64)
    try:
        universe.trajectory[-1]  # a file that breaks off within a frame has an index entry for it
        for done, _ in enumerate(steps):
            frames[done] = positions_of(universe, atoms)
    except Exception as error:
        raise ValueError(f"{path}: breaks off ({_first_line(error)}); copy it again, or cut it at the last whole frame") from None
    found, promised = universe.trajectory.n_frames, _promised(path)
    if promised > found or done + 1 < len(steps):
        raise ValueError(
            f"{path}: breaks off: {found} of {max(promised, found)} frames are there; copy it again, or cut it there"
        )
    return frames


def _promised(path: Path) -> int:
    """The frames that a DCD file's head says it has, which MDAnalysis does not look at; 0 for other files."""
    if path.suffix != ".dcd":
        return 0
    with path.open("rb") as file:
        mark, _, count = struct.unpack("<i4si", file.read(12))
    return int(count) if mark == 84 else 0  # else of the other byte order


def _make_whole(universe: Any, atoms: Any, path: Path) -> None:
    from MDAnalysis.transformations import unwrap

    box = universe.dimensions
    if box is None or not (np.asarray(box[:3]) > 0).all():
        raise ValueError(f"{path}: data.unwrap needs a periodic box, and this trajectory has none; leave unwrap out")
    universe.trajectory.add_transformations(unwrap(atoms))
