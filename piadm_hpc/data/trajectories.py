"""Training conformers from any trajectory that MDAnalysis reads: frames to superposed states, split, weighted, counted.

What cannot be used is left out and counted (frames that are not finite, frames of the other hand); what does not fit together
is an error that says what to change.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import glob
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..topology import Atom, Topology

ANGSTROM = 0.1  # nm
H5 = (".h5", ".h5md", ".hdf5")


class TrajectoryConfig(BaseModel):
    """Which frames to read and how they become states.

    `trajectories` are paths or globs in any format of MDAnalysis, or conformer files of this package; `topology` names the
    atoms (PDB and others; default: topology.pdb beside the first trajectory). `selection` is MDAnalysis' selection language.
    `frame`: "superposed" turns every frame onto the mean structure, "centred" only shifts it. With `unwrap` molecules
    that a periodic box cut are made whole. Frames whose chiral centres have another hand than in `topology` are left out.
    Conformer files may carry a `log_weight` per frame. Every training frame is taken `relabel` times, each time with the
    hydrogens of methyl groups (and the like) named anew. Trajectories and frames held out are named by glob or last fraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trajectories: tuple[str, ...] = Field(min_length=1)
    topology: str | None = None
    selection: str = "all"
    start: int = Field(default=0, ge=0)
    stride: int = Field(default=1, ge=1)
    frame: Literal["superposed", "centred"] = "superposed"
    unwrap: bool = False
    relabel: int = Field(default=1, ge=1)
    validation_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    source: str = ""
    licence: str = ""

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> TrajectoryConfig:
        by_file, by_part = (self.validation_files or self.test_files), self.validation_fraction + self.test_fraction
        if by_file and by_part:
            raise ValueError("hold out either by files or by fractions, not both")
        if by_part >= 1:
            raise ValueError(f"validation_fraction + test_fraction = {by_part} leaves nothing to train on")
        return self


@dataclass(frozen=True)
class Frames:
    """Usable frames: `positions` [n, atoms, 3] in nm, `weight` [n], `file` [n] numbers of the files `names`.

    `excluded` counts what was left out, by reason.
    """

    positions: np.ndarray
    weight: np.ndarray
    file: np.ndarray
    names: tuple[str, ...]
    topology: Topology
    excluded: dict[str, int]

    def take(self, chosen: np.ndarray) -> Frames:
        """Some of the frames, by index."""
        return Frames(self.positions[chosen], self.weight[chosen], self.file[chosen], self.names, self.topology, self.excluded)


def read_frames(config: TrajectoryConfig, root: Path = Path()) -> Frames:
    """All frames a configuration describes; relative paths start at `root`. ValueError for files that do not work."""
    paths = _expand(config.trajectories, root)
    structure = root / config.topology if config.topology else paths[0].with_name("topology.pdb")
    with _told(structure, paths):
        first = _universe(structure)
        atoms = _select(first, config.selection, structure)
        topology = _topology(atoms)
        hands = signs(_positions(first, atoms)[None], topology)
        read = [_read(structure, path, config) for path in paths]
    positions, logs = np.concatenate([r[0] for r in read]), np.concatenate([r[1] for r in read])
    weight = np.exp(logs - logs[np.isfinite(logs)].max(initial=0.0))
    file = np.repeat(np.arange(len(read)), [len(r[0]) for r in read])
    finite = np.isfinite(positions).all((1, 2)) & np.isfinite(weight)
    flipped = finite & (signs(np.where(finite[:, None, None], positions, 0), topology) != hands).any(1)
    excluded = {"not finite": int((~finite).sum()), "other hand": int(flipped.sum())}
    kept = np.flatnonzero(finite & ~flipped)
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} of {len(positions)} frames can be used ({_counts(excluded)}); check that {structure} has the hand of "
            "the trajectories, and that these are whole"
        )
    names = tuple(path.name for path in paths)
    return Frames(positions, weight, file, names, topology, excluded).take(kept)


def split(config: TrajectoryConfig, frames: Frames) -> dict[str, Frames]:
    """Frames for training, validation and test. ValueError if a pattern matches nothing or nothing is left to train on."""
    count = len(frames.file)
    if config.validation_files or config.test_files:
        part = np.full(count, "train", dtype=object)
        for name, patterns in {"validation": config.validation_files, "test": config.test_files}.items():
            matches = [i for i, file in enumerate(frames.names) if any(fnmatch(file, p) for p in patterns)]
            if patterns and not matches:
                raise ValueError(f"{name}_files {list(patterns)} match none of the files read: {', '.join(frames.names)}")
            part[np.isin(frames.file, matches)] = name
    else:
        first_test = count - round(count * config.test_fraction)
        first_validation = first_test - round(count * config.validation_fraction)
        order = np.arange(count)
        part = np.where(order >= first_test, "test", np.where(order >= first_validation, "validation", "train"))
    parts = {name: frames.take(np.flatnonzero(part == name)) for name in ("train", "validation", "test")}
    if len(parts["train"].file) < 2:
        raise ValueError(f"{len(parts['train'].file)} frames are left to train on; at least 2 are needed, hold out fewer")
    return parts


def unweighted(frames: Frames, *, seed: int) -> np.ndarray:
    """As many positions [n, atoms, 3] as there are frames, drawn by weight in a shuffled order (systematic resampling).

    Frames of equal weight are each taken once.
    """
    count = len(frames.weight)
    generator = np.random.default_rng(seed)
    ladder = np.cumsum(frames.weight) / frames.weight.sum()
    chosen = np.searchsorted(ladder, (np.arange(count) + generator.random()) / count).clip(max=count - 1)
    return np.asarray(frames.positions[generator.permutation(chosen)])


def relabelled(positions: np.ndarray, topology: Topology, copies: int, *, seed: int) -> np.ndarray:
    """Positions [n, atoms, 3] `copies` times, [copies n, atoms, 3], each time with the like atoms of every rotor named anew."""
    generator = np.random.default_rng(seed)
    again = np.tile(positions, (copies, 1, 1))
    rows = np.arange(len(again))[:, None]
    for rotor in topology.rotors():
        turn = (np.arange(3) + generator.integers(0, 3, size=(len(again), 1))) % 3
        atoms = np.array(rotor)
        again[rows, atoms] = again[rows, atoms[turn]]
    return again


def signs(positions: np.ndarray, topology: Topology) -> np.ndarray:
    """The hand, +1 or -1, of every chiral centre: positions [n, atoms, 3] -> [n, centres]."""
    four = np.array(topology.centres(), dtype=int).reshape(-1, 4)
    a, b, c = (positions[:, four[:, k]] - positions[:, four[:, 0]] for k in (1, 2, 3))
    return np.asarray(np.sign((a * np.cross(b, c)).sum(-1)))


def _expand(names: Sequence[str], root: Path) -> list[Path]:
    found: dict[Path, None] = {}
    absent = []
    for name in names:
        matches = sorted(glob(str(root / name)))
        if not matches:
            absent.append(name)
        found.update(dict.fromkeys(map(Path, matches)))
    if absent:
        raise ValueError(f"no file matches {', '.join(absent)} (looked from {root.resolve()}); check `trajectories`")
    return list(found)


@contextmanager
def _told(structure: Path, paths: Sequence[Path]) -> Iterator[None]:
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


def _universe(structure: Path, trajectory: Path | None = None) -> Any:
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


def _select(universe: Any, selection: str, structure: Path) -> Any:
    try:
        atoms = universe.select_atoms(selection)
    except Exception as error:
        raise ValueError(f"data.selection = {selection!r}: {_first_line(error)}; see MDAnalysis' selection language") from None
    if len(atoms) < 3:
        raise ValueError(f"data.selection = {selection!r} selects {len(atoms)} atoms of {structure}; at least 3 are needed")
    return atoms


def _positions(universe: Any, atoms: Any) -> np.ndarray:
    return np.asarray(atoms.positions, dtype=np.float64) * ANGSTROM


def _topology(atoms: Any) -> Topology:
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


def _read(structure: Path, path: Path, config: TrajectoryConfig) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n, atoms, 3] in nm and logarithms of the weights [n] of one trajectory."""
    universe = _universe(structure, path)
    atoms = _select(universe, config.selection, structure)
    if config.unwrap:
        _make_whole(universe, atoms, path)
    try:
        if path.suffix in H5 and not config.unwrap:
            own = _own(path, atoms.indices, slice(config.start, None, config.stride))
            if own is not None:
                return own
        frames = _one_by_one(universe.trajectory[config.start :: config.stride], universe, atoms, path)
        return frames, np.zeros(len(frames))
    finally:
        universe.trajectory.close()


def _own(path: Path, atoms: np.ndarray, part: slice) -> tuple[np.ndarray, np.ndarray] | None:
    """What `_read` returns, all at once, of a conformer file of this package; None for other files."""
    with xr.open_dataset(path, engine="h5netcdf", phony_dims="access") as dataset:
        if "coordinates" not in dataset or dataset["coordinates"].attrs.get("units") != "nanometers":
            return None
        frames = dataset["coordinates"].values[part, atoms].astype(np.float64)
        weights = dataset["log_weight"].values[part] if "log_weight" in dataset else np.zeros(len(frames))
        return frames, weights.astype(np.float64)


def _one_by_one(steps: Any, universe: Any, atoms: Any, path: Path) -> np.ndarray:
    frames, done = np.empty((len(steps), len(atoms), 3), dtype=np.float64), 0
    try:
        for done, _ in enumerate(steps):
            frames[done] = _positions(universe, atoms)
    except Exception as error:
        raise ValueError(
            f"{path}: breaks off after {done + 1} of {len(steps)} frames ({_first_line(error)}); copy it again, or cut it there"
        ) from None
    return frames


def _make_whole(universe: Any, atoms: Any, path: Path) -> None:
    from MDAnalysis.transformations import unwrap

    box = universe.dimensions
    if box is None or not (np.asarray(box[:3]) > 0).all():
        raise ValueError(f"{path}: data.unwrap needs a periodic box, and this trajectory has none; leave unwrap out")
    universe.trajectory.add_transformations(unwrap(atoms))


def _counts(excluded: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in excluded.items())
