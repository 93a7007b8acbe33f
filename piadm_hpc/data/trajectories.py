"""Training conformers from any trajectory that MDAnalysis reads: frames to superposed states, split, weighted, counted.

What cannot be used is left out and counted (frames that are not finite, frames of the other hand); what does not fit together
is an error that says what to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..config.paths import expanded
from ..schema.topology import Topology
from .reading import expand, require_one_way_to_hold_out
from .trajectory_files import open_universe, positions_of, read_file, select, told, topology_of


class TrajectoryConfig(BaseModel):
    """Which frames to read and how they become states.

    `trajectories` are paths or globs in any format of MDAnalysis, or conformer files of this package; `topology` names the
    atoms (PDB and others; default: topology.pdb beside the first trajectory). `selection` is MDAnalysis' selection language.
    `alignment`: "superposed" turns every frame onto the mean structure, "centred" only shifts it. With `unwrap` molecules
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
    alignment: Literal["superposed", "centred"] = "superposed"
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
        require_one_way_to_hold_out(self.validation_files or self.test_files, self.validation_fraction + self.test_fraction)
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
    paths = expand(config.trajectories, root, "trajectories")
    structure = root / expanded(config.topology, root) if config.topology else paths[0].with_name("topology.pdb")
    part = slice(config.start, None, config.stride)
    with told(structure, paths):
        first = open_universe(structure)
        atoms = select(first, config.selection, structure)
        topology = topology_of(atoms)
        hands = signs(positions_of(first, atoms)[None], topology)
        read = [read_file(structure, path, config.selection, part, unwrap=config.unwrap) for path in paths]
    positions = in_order(np.concatenate([r[0] for r in read]), topology)
    logs = np.concatenate([r[1] for r in read])
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
            matches = [i for i, file in enumerate(frames.names) if any(file == p or fnmatch(file, p) for p in patterns)]
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


def in_order(positions: np.ndarray, topology: Topology) -> np.ndarray:
    """Positions [n, atoms, 3] with the like atoms of every rotor named counter-clockwise about their bond.

    Two hydrogens of a methyl group that exchange their names leave the molecule as it is, yet no motion exchanges them: runs
    that were set up apart would seem to be different molecules.
    """
    near, ordered = topology.neighbours, positions.copy()
    for first, second, third in topology.rotors():
        a, b, c = (positions[:, k] - positions[:, near[first][0]] for k in (first, second, third))
        turned = np.flatnonzero((a * np.cross(b, c)).sum(-1) < 0)[:, None]
        ordered[turned, [second, third]] = positions[turned, [third, second]]
    return ordered


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


def _counts(excluded: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in excluded.items())
