"""Training conformers from trajectories: usable frames, their weights, and the split into training, validation and test.

Frames that cannot be used, because they are not finite or of the other handedness, are left out and counted. Files that do
not fit together are refused with advice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..config.paths import expanded
from ..schema.topology import Topology
from .frame_inputs import FrameConditionConfig, FrameInput, read_frame_inputs
from .inputs import PARTS, expand, parts_by_file, parts_by_fraction, require_one_way_to_hold_out
from .trajectory_files import open_universe, positions_of, read_file, readable_failures, select, topology_file, topology_of


class TrajectoryConfig(BaseModel):
    """Configuration of the frames to read and of their alignment.

    `trajectories` are paths or globs in any format of MDAnalysis, or HDF5 files of mdtraj or this package; `topology` names
    the atoms (PDB and others; default: topology.pdb beside the first trajectory, or the topology in such an HDF5 file).
    `selection` is MDAnalysis' selection language. `alignment`: "superposed" rotates every frame onto the mean structure,
    "centred" only shifts it. With `unwrap` molecules that are split across a periodic box are reassembled. Frames whose chiral
    centres are mirror images of those in `topology` are left out. HDF5 files may carry a `log_weight` per frame. Every training
    frame is used `relabel` times, each time with the hydrogens of methyl groups (and other rotors) permuted at random.
    Held-out trajectories are named by glob, held-out frames by last fraction.
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
        require_one_way_to_hold_out(self)
        return self


@dataclass(frozen=True)
class Frames:
    """Usable frames: `positions` [n, atoms, 3] in nm, `weight` [n], and the numbers `file` [n] of their files among `names`.

    `excluded` counts the frames that were left out, by reason. `inputs` are those of a conditional model, by name.
    """

    positions: np.ndarray
    weight: np.ndarray
    file: np.ndarray
    names: tuple[str, ...]
    topology: Topology
    excluded: dict[str, int]
    inputs: Mapping[str, FrameInput] = field(default_factory=dict)

    def take(self, chosen: np.ndarray) -> Frames:
        """Select frames by index."""
        inputs = {name: replace(given, values=given.values[chosen]) for name, given in self.inputs.items()}
        arrays = {name: getattr(self, name)[chosen] for name in ("positions", "weight", "file")}
        return replace(self, **arrays, inputs=inputs)


def read_frames(config: TrajectoryConfig, root: Path = Path(), condition: FrameConditionConfig | None = None) -> Frames:
    """Read the frames that a configuration describes, with the inputs of a `condition`; relative paths start at `root`.

    Raises ValueError for files that cannot be read or do not fit together, and if fewer than two frames are usable.
    """
    paths = expand(config.trajectories, root, "trajectories")
    part = slice(config.start, None, config.stride)
    with (
        topology_file(None if config.topology is None else root / expanded(config.topology, root), paths[0]) as structure,
        readable_failures(structure),
    ):
        first = open_universe(structure)
        atoms = select(first, config.selection, structure)
        topology = topology_of(atoms, structure)
        hands = signs(positions_of(first, atoms)[None], topology)
        read = [read_file(structure, path, config.selection, part, unwrap=config.unwrap) for path in paths]
    counts = [len(r[0]) for r in read]
    inputs = {} if condition is None else read_frame_inputs(condition, paths, counts, part, root)
    positions = in_order(np.concatenate([r[0] for r in read]), topology)
    logs = np.concatenate([r[1] for r in read])
    weight = np.exp(logs - logs[np.isfinite(logs)].max(initial=0.0))
    file = np.repeat(np.arange(len(read)), counts)
    finite = np.isfinite(positions).all((1, 2)) & np.isfinite(weight)
    flipped = finite & (signs(np.where(finite[:, None, None], positions, 0), topology) != hands).any(1)
    excluded = {"not finite": int((~finite).sum()), "other hand": int(flipped.sum())}
    usable = finite & ~flipped
    if inputs:
        given = np.all([np.isfinite(one.values) for one in inputs.values()], axis=0)
        excluded["without a condition"] = int((usable & ~given).sum())
        usable &= given
    kept = np.flatnonzero(usable)
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} of {len(positions)} frames can be used ({_counts(excluded)}); check that {structure} has the "
            "handedness of the trajectories, and that these are whole"
        )
    names = tuple(path.name for path in paths)
    return Frames(positions, weight, file, names, topology, excluded, inputs).take(kept)


def split(config: TrajectoryConfig, frames: Frames) -> dict[str, Frames]:
    """Split frames into training, validation and test.

    Raises ValueError if a pattern matches no file, or fewer than two frames are left to train on.
    """
    by_file = config.validation_files or config.test_files
    order = np.arange(len(frames.file))
    part = parts_by_file(config, frames.names, frames.file) if by_file else parts_by_fraction(config, order)
    parts = {name: frames.take(np.flatnonzero(part == name)) for name in PARTS}
    if len(parts["train"].file) < 2:
        raise ValueError(f"{len(parts['train'].file)} frames are left to train on; at least 2 are needed, hold out fewer")
    return parts


def unweighted(frames: Frames, *, seed: int) -> Frames:
    """Draw frames of equal weight by their weights, as many as there are, by systematic resampling in shuffled order.

    Frames of equal weight are drawn once each.
    """
    count = len(frames.weight)
    generator = np.random.default_rng(seed)
    ladder = np.cumsum(frames.weight) / frames.weight.sum()
    chosen = np.searchsorted(ladder, (np.arange(count) + generator.random()) / count).clip(max=count - 1)
    return replace(frames.take(generator.permutation(chosen)), weight=np.ones(count))


def in_order(positions: np.ndarray, topology: Topology) -> np.ndarray:
    """Order the equivalent atoms of every rotor of positions [n, atoms, 3] counter-clockwise about its bond.

    Exchanging the names of two hydrogens of a methyl group leaves the molecule unchanged, but no motion of the atoms has this
    effect: simulations set up separately would appear to be of different molecules.
    """
    near, ordered = topology.neighbours, positions.copy()
    for first, second, third in topology.rotors():
        a, b, c = (positions[:, k] - positions[:, near[first][0]] for k in (first, second, third))
        turned = np.flatnonzero((a * np.cross(b, c)).sum(-1) < 0)[:, None]
        ordered[turned, [second, third]] = positions[turned, [third, second]]
    return ordered


def relabelled(positions: np.ndarray, topology: Topology, copies: int, *, seed: int) -> np.ndarray:
    """Repeat positions [n, atoms, 3] to [copies n, atoms, 3], rotating the names of every rotor's equivalent atoms at random."""
    generator = np.random.default_rng(seed)
    again = np.tile(positions, (copies, 1, 1))
    rows = np.arange(len(again))[:, None]
    for rotor in topology.rotors():
        turn = (np.arange(3) + generator.integers(0, 3, size=(len(again), 1))) % 3
        atoms = np.array(rotor)
        again[rows, atoms] = again[rows, atoms[turn]]
    return again


def signs(positions: np.ndarray, topology: Topology) -> np.ndarray:
    """The handedness, +1 or -1, of every chiral centre: positions [n, atoms, 3] -> [n, centres]."""
    four = np.array(topology.centres(), dtype=int).reshape(-1, 4)
    a, b, c = (positions[:, four[:, k]] - positions[:, four[:, 0]] for k in (1, 2, 3))
    return np.asarray(np.sign((a * np.cross(b, c)).sum(-1)))


def _counts(excluded: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in excluded.items())
