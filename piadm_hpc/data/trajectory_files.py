"""Reading trajectories: any format that MDAnalysis reads, and files of conformers of mdtraj and of this package."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..schema.topology import Atom, Topology
from .conformer_files import H5, StoredConformers, read_stored
from .elements import bonds_of, elements_of

ANGSTROM = 0.1  # nm
FEW = 9  # atoms up to which an XTC file stores plain numbers
LARGE = 2023  # first number of XTC frames whose sizes have eight bytes


@contextmanager
def topology_file(given: Path | None, trajectory: Path) -> Iterator[Path]:
    """The file that names the atoms: as given, else topology.pdb beside a trajectory, else one made from its own topology."""
    beside = trajectory.with_name("topology.pdb")
    stored = None if given is not None or beside.is_file() else read_stored(trajectory, slice(0, 1))
    if stored is None or not len(stored.positions):
        yield beside if given is None else given
        return
    with TemporaryDirectory() as folder:
        made = Path(folder) / f"topology of {trajectory.name}.pdb"
        made.write_text(stored.topology.to_pdb(stored.positions[0]), encoding="utf-8")
        yield made


@contextmanager
def readable_failures(structure: Path) -> Iterator[None]:
    """Turn failures of the reader into readable errors, and suppress its warnings."""
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
    """Open a topology, with or without a trajectory, as a universe of MDAnalysis; ValueError for files it cannot read."""
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
    if "units" in str(error):
        return "H5MD wants a unit of the positions and of the times; write them into the file"
    return "check that the file is whole and its name tells its format"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def select(universe: Any, selection: str, structure: Path) -> Any:
    """Select atoms of a universe; ValueError for a selection that cannot be parsed or that has fewer than three atoms."""
    try:
        atoms = universe.select_atoms(selection)
    except Exception as error:
        raise ValueError(f"data.selection = {selection!r}: {_first_line(error)}; see MDAnalysis' selection language") from None
    if len(atoms) < 3:
        raise ValueError(f"data.selection = {selection!r} selects {len(atoms)} atoms of {structure}; at least 3 are needed")
    return atoms


def positions_of(universe: Any, atoms: Any) -> np.ndarray:
    """Positions [atoms, 3] in nm of the current frame of a universe."""
    return np.asarray(atoms.positions, dtype=np.float64) * ANGSTROM


def topology_of(atoms: Any, source: object) -> Topology:
    """The selected atoms with elements and bonds; those missing in the file `source` are guessed if only one choice is possible.

    Raises ValueError for atoms whose element or bonds remain unknown.
    """
    absent = [name for name in ("names", "resnames", "resids", "segids") if not hasattr(atoms, name)]
    if absent:
        raise ValueError(
            f"{source}: has no {', '.join(absent)} of its atoms; give a topology, such as a PDB file, as data.topology"
        )
    elements = elements_of(atoms, source)
    place = {int(index): k for k, index in enumerate(atoms.indices)}
    ends = [(place[a], place[b]) for a, b in bonds_of(atoms, source) if a in place and b in place]
    bonds = tuple(sorted((min(pair), max(pair)) for pair in ends))
    chains = {segment: k for k, segment in enumerate(dict.fromkeys(atoms.segids.tolist()))}
    described = zip(atoms.names, elements, atoms.resnames, atoms.resids, atoms.segids, strict=True)
    return Topology(tuple(Atom(str(n), e, str(r), int(i), chains[s]) for n, e, r, i, s in described), bonds)


def read_file(structure: Path, path: Path, selection: str, part: slice, *, unwrap: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read the frames `part` of one trajectory: positions [n, atoms, 3] in nm and logarithms of the weights [n]."""
    stored = read_stored(path, part)
    if stored is not None and not unwrap:
        universe = open_universe(structure)
        _require_same_atoms(stored.topology, universe, path, structure)
        return stored.positions[:, select(universe, selection, structure).indices], stored.log_weight
    universe = open_universe(structure, path) if stored is None else _in_memory(structure, path, stored)
    try:
        atoms = select(universe, selection, structure)
        if unwrap:
            _make_whole(universe, atoms, path)
        frames = _one_by_one(universe, atoms, part if stored is None else slice(None), path)
        return frames, np.zeros(len(frames)) if stored is None else stored.log_weight
    finally:
        universe.trajectory.close()


def _require_same_atoms(stored: Topology, universe: Any, path: Path, structure: Path) -> None:
    """Raise ValueError unless a file's own atoms are those of the topology, in order."""
    named = [str(name) for name in universe.atoms.names]
    if len(stored) != len(named):
        raise ValueError(
            f"{path} has {len(stored)} atoms, {structure} {len(named)}; both must have the same atoms in the same order"
        )
    other = [k for k, (atom, name) in enumerate(zip(stored.atoms, named, strict=True)) if atom.name != name]
    if other:
        k = other[0]
        raise ValueError(f"{path}: atom {k} is {stored.atoms[k].name}, and {named[k]} in {structure}; order atoms alike")


def _in_memory(structure: Path, path: Path, stored: StoredConformers) -> Any:
    """MDAnalysis' universe of frames that have already been read, with their periodic boxes."""
    universe = open_universe(structure)
    _require_same_atoms(stored.topology, universe, path, structure)
    box = None if stored.box is None else stored.box / np.array([ANGSTROM] * 3 + [1.0] * 3)
    universe.load_new(stored.positions / ANGSTROM, order="fac", dimensions=box)
    return universe


def _one_by_one(universe: Any, atoms: Any, part: slice, path: Path) -> np.ndarray:
    steps, done = universe.trajectory[part], 0
    frames = np.empty((len(steps), len(atoms), 3), dtype=np.float64)
    try:
        universe.trajectory[-1]  # the index counts a last frame that is incomplete; reading it fails
        for done, _ in enumerate(steps):
            frames[done] = positions_of(universe, atoms)
    except Exception as error:
        raise ValueError(
            f"{path} is truncated ({_first_line(error)}); copy it again, or cut it at the last whole frame"
        ) from None
    found, promised = universe.trajectory.n_frames, _promised(path)
    if promised > found or done + 1 < len(steps):
        raise ValueError(
            f"{path} is truncated: {found} of {max(promised, found)} frames are there; copy it again, or cut it there"
        )
    return frames


def _promised(path: Path) -> int:
    """The number of frames in the header of a DCD file, or begun in an XTC file, which MDAnalysis ignores; 0 for other files."""
    if path.suffix == ".xtc":
        return _begun(path)
    if path.suffix != ".dcd":
        return 0
    with path.open("rb") as file:
        mark, _, count = struct.unpack("<i4si", file.read(12))
    return int(count) if mark == 84 else 0  # else of the other byte order


def _begun(path: Path) -> int:
    """The number of frames that an XTC file begins, counted by the sizes that their headers give."""
    size, at, count = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            header, count = file.read(96).ljust(96, b"\0"), count + 1
            kind, atoms = struct.unpack(">ii", header[:8])
            if atoms <= FEW:
                at += 56 + 12 * max(0, atoms)
            else:  # a number of bytes, of four or eight bytes itself, and as many bytes in words of four
                start, form = (96, ">q") if kind == LARGE else (92, ">i")
                at += start + -(-max(0, struct.unpack(form, header[88:start])[0]) // 4) * 4
    return count


def _make_whole(universe: Any, atoms: Any, path: Path) -> None:
    from MDAnalysis.transformations import unwrap

    box = universe.dimensions
    if box is None or not (np.asarray(box[:3]) > 0).all():
        raise ValueError(f"{path}: data.unwrap needs a periodic box, and this trajectory has none; leave unwrap out")
    universe.trajectory.add_transformations(unwrap(atoms))
