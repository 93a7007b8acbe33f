"""Rounds of one molecule in three kinds of coordinates: which of them a Gaussian describes best.

    python benchmarks/coordinates.py            alanine dipeptide, 3,000 steps of training in each (ten minutes, one core)
    python benchmarks/coordinates.py --quick    a few steps, to check that it runs

The held-out frames of the shipped model, resampled by their weights, are written as superposed positions, as centred positions
in any orientation, and as internal coordinates: bond lengths, angles, and torsions in radians, cut where they are rarest. In
each of them a Gaussian is fitted, and the same small perceptron is trained on the difference to it. Samples are then solved on
the Gaussian-aware chain, with the Gaussian alone and with the Jacobian diagonal probed from the network. `left` is the
denoising error of the network over that of the Gaussian at a log-SNR of zero, a measure of how little the molecule is Gaussian
there. Few rounds are worthless if the samples are wrong: `mismatch` is the Jensen-Shannon divergence in bits between samples and
frames, of the bond length, angle or torsion where it is largest. It is computed from the same quantities in all coordinates.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import Cell, Report, at_most, parser, solve
from torch import Tensor, nn
from torch.nn import functional

from piadm_hpc import integrators
from piadm_hpc.analysis.verify.conformers import Conformers, divergence, load_conformers
from piadm_hpc.data.superpose import centred, mean_structure, rigid_motions, superposed
from piadm_hpc.data.trajectories import TrajectoryConfig
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.card import HELD_OUT
from piadm_hpc.models.config import ConformerTrainConfig, OptimiserConfig
from piadm_hpc.models.denoiser import DenoiserScore, GaussianDenoiser
from piadm_hpc.models.networks.pairs import Mixer
from piadm_hpc.models.networks.unet import LevelEmbedding
from piadm_hpc.models.registry import find_model
from piadm_hpc.models.training.evaluation import denoising_table
from piadm_hpc.models.training.fields import fit_network
from piadm_hpc.models.training.molecules import fit_conformer_reference
from piadm_hpc.run.probe import probe_response
from piadm_hpc.schema.conditions import Condition
from piadm_hpc.schema.topology import Topology
from piadm_hpc.solvers.options import SolverName
from piadm_hpc.solvers.solution import Solution
from piadm_hpc.theory.bases import EOF
from piadm_hpc.theory.directions import orthogonal
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU

HORIZON, DELTA, STEPS, TOL = 8.0, 5e-4, 48, 1e-2
BINS = 72  # of a torsion's histogram


@dataclass(frozen=True)
class States:
    """States [n, 1, coordinates] of unit mean variance in their `rank` varying directions, orthogonal to `constraint`.

    `read` maps states [n, coordinates] to bond lengths, angles and torsions [n, 3 atoms - 6] in their standard deviations.
    """

    train: Tensor
    validation: Tensor
    constraint: Tensor | None
    rank: int
    read: Callable[[np.ndarray], np.ndarray]
    conditions: Mapping[str, Condition] = field(default_factory=dict)


class Perceptron(nn.Module):
    """F(states, log-SNR) for [rows, 2, 1, size] (noisy state, linear estimate) -> [rows, 1, 1, size]; zero when initialised."""

    def __init__(self, size: int, width: int = 256, depth: int = 4, embedding: int = 64):
        super().__init__()
        self.level, self.entry = LevelEmbedding(embedding), nn.Linear(2 * size, width)
        self.blocks = nn.ModuleList(Mixer(width, embedding) for _ in range(depth))
        self.exit = nn.Linear(width, size)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(self, states: Tensor, log_snr: Tensor) -> Tensor:
        level = self.level(log_snr)
        h = functional.silu(self.entry(states.flatten(1)))
        for block in self.blocks:
            h = block(h, level)
        out: Tensor = self.exit(h)
        return out[:, None, None]


Reader = Callable[[np.ndarray], np.ndarray]
Written = tuple[np.ndarray, np.ndarray | None, Reader]  # values [n, coordinates], constraint, and the map to internal coordinates


def superposed_states(molecule: Conformers, generator: np.random.Generator, z: Internal) -> Written:
    centre = mean_structure(molecule.positions)[0]
    flat = (superposed(molecule.positions, centre) - centre).reshape(len(molecule.positions), -1)
    return flat, rigid_motions(centre, turns=True), lambda x: z(x.reshape(len(x), -1, 3) + centre)


def centred_states(molecule: Conformers, generator: np.random.Generator, z: Internal) -> Written:
    turns = np.linalg.qr(generator.normal(size=(len(molecule.positions), 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[:, None, None]
    positions = centred(molecule.positions) @ turns
    flat = positions.reshape(len(positions), -1)
    return flat, rigid_motions(positions[0], turns=False), lambda x: z(x.reshape(len(x), -1, 3))


def internal_states(molecule: Conformers, generator: np.random.Generator, z: Internal) -> Written:
    return z(molecule.positions), None, lambda x: x


class Internal:
    """Positions [n, atoms, 3] to bond lengths, angles and torsions [n, 3 atoms - 6], in standard deviations over the frames."""

    def __init__(self, molecule: Conformers):
        self.placed = placed_by(molecule.topology)
        raw = self._raw(molecule.positions)
        # torsions are cut in the middle of their emptiest stretch
        self.cuts = {k: emptiest(raw[:, k]) for k in self._torsions()}
        values = self._cut(raw)
        self.mean, self.scale = values.mean(0), values.std(0)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return np.asarray((self._cut(self._raw(positions)) - self.mean) / self.scale)

    def _raw(self, positions: np.ndarray) -> np.ndarray:
        return np.stack([column for atoms in self.placed for column in internal(positions, atoms)], axis=1)

    def _torsions(self) -> list[int]:
        sizes = [min(len(atoms), 4) - 1 for atoms in self.placed]
        return [sum(sizes[: k + 1]) - 1 for k, size in enumerate(sizes) if size == 3]

    def _cut(self, raw: np.ndarray) -> np.ndarray:
        values = raw.copy()
        for k, start in self.cuts.items():
            values[:, k] = (raw[:, k] - start) % (2 * np.pi)
        return values


def placed_by(topology: Topology) -> list[tuple[int, ...]]:
    """For every atom but the first: itself and up to three earlier ones, a neighbour, the neighbour's neighbour, and one more."""
    near, order = topology.neighbours, [0]
    placed = []
    while len(order) < len(topology):
        atom, parent = next((j, i) for i in order for j in near[i] if j not in order)
        chain = [parent]
        for _ in range(2):
            # prefer another neighbour of the parent, so that methyl hydrogens refer to one another
            near_chain = (parent, chain[-1], *chain)
            chain += next(([j] for i in near_chain for j in near[i] if j in order and j not in chain), [])
        placed.append((atom, *chain))
        order.append(atom)
    return placed


def internal(positions: np.ndarray, atoms: tuple[int, ...]) -> list[np.ndarray]:
    """Distance, angle and torsion of the first atom with respect to the others, as far as these atoms define them."""
    x = [positions[:, atom] for atom in atoms]
    bond = x[1] - x[0]
    columns = [np.linalg.norm(bond, axis=1)]
    if len(atoms) > 2:
        a, b = bond, x[1] - x[2]
        columns.append(np.arccos((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))
    if len(atoms) > 3:
        columns.append(torsion(*x))
    return columns


def torsion(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    first, axis, second = b - a, c - b, d - c
    one, other = np.cross(first, axis), np.cross(axis, second)
    along = (np.cross(one, other) * axis).sum(1) / np.linalg.norm(axis, axis=1)
    return np.asarray(np.arctan2(along, (one * other).sum(1)))


def emptiest(angle: np.ndarray) -> float:
    """The middle of the emptiest stretch of an angle."""
    counts = np.histogram(angle, BINS, (-np.pi, np.pi))[0]
    smooth = sum(np.roll(counts, k) for k in range(-3, 4))
    return float(-np.pi + (int(np.argmin(smooth)) + 0.5) * 2 * np.pi / BINS)


KINDS: dict[str, Callable[[Conformers, np.random.Generator, Internal], Written]] = {
    "superposed positions": superposed_states,
    "centred positions": centred_states,
    "internal coordinates": internal_states,
}


def states_of(kind: str, molecule: Conformers, z: Internal) -> States:
    values, constraint, back = KINDS[kind](molecule, np.random.default_rng(0), z)
    rank = values.shape[1] - (0 if constraint is None else constraint.shape[1])
    scale = float(np.sqrt((values**2).sum(1).mean() / rank))
    states = torch.from_numpy((values / scale)[:, None].astype(np.float32))
    last = len(states) * 9 // 10
    directions = None if constraint is None else torch.from_numpy(constraint)
    return States(states[:last], states[last:], directions, rank, lambda x: back(x * scale))


def reference_of(kind: str, states: States) -> GaussianReference:
    """The Gaussian of all modes in which the states vary, isotropic for centred positions."""
    frame = "centred" if kind.startswith("centred") else "superposed"
    size = states.train.shape[-1]
    shaped = states.train.reshape(len(states.train), -1, 3) if size % 3 == 0 else states.train
    fitted = fit_conformer_reference(shaped, frame)
    assert isinstance(fitted.basis, EOF)
    return replace(fitted, basis=EOF(fitted.basis.modes, (1, size)))


def trained(states: States, reference: GaussianReference, steps: int) -> GaussianDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Perceptron(states.train.shape[-1])
    denoiser = GaussianDenoiser(OU(), reference, network, None, states.constraint)
    every = max(1, steps // 3)
    optimiser = OptimiserConfig(steps=steps, batch=512, validate_every=every, patience=10, warm_up=min(200, steps))
    config = ConformerTrainConfig(name="c", output="c", data=TrajectoryConfig(trajectories=("held_out.h5",)), optimiser=optimiser)
    with tempfile.TemporaryDirectory() as folder:
        fit_network(denoiser, states, config, Path(folder) / "checkpoints", report=lambda line: None)
    network.eval()
    return denoiser


def solved(denoiser: GaussianDenoiser, reference: GaussianReference, eta: float, count: int, solver: SolverName) -> Solution:
    """`count` samples of the Gaussian-aware chain."""
    process = OU()
    grid = log_snr(process, STEPS, horizon=HORIZON, delta=DELTA).with_blocks(1)
    chain = integrators.build("gaussian", process, grid, reference=reference, options=integrators.Options(eta=eta))
    size = len(reference.mean)
    white = Noise(0, size, dtype=torch.float32).at([0], range(count), stream=PRIOR)[0, :, 0]
    start = reference.to("cpu", torch.float32).draw(white, process.alpha(grid.t[0]), process.sigma(grid.t[0]))
    return solve(
        chain,
        DenoiserScore(denoiser),
        start.reshape(count, 1, size),
        noise=Noise(0, size, dtype=torch.float32),
        reference=reference,
        solver=solver,
        tol=TOL,
        project=lambda x: orthogonal(x, denoiser.constraint),
        model_batch=4096,
    )


def mismatch(states: States, x: Tensor) -> float:
    """The largest divergence in bits between samples and frames, over internal coordinates."""
    real, sampled = (states.read(values.flatten(1).double().numpy()) for values in (states.train, x))
    divergences = []
    for column, other in zip(real.T, sampled.T, strict=True):
        edges = np.linspace(column.min() - 1e-9, column.max() + 1e-9, BINS // 2)
        divergences.append(divergence(*(np.histogram(v.clip(edges[0], edges[-1]), edges)[0] for v in (column, other))))
    return max(divergences)


def row(kind: str, molecule: Conformers, z: Internal, steps: int, count: int) -> list[Cell]:
    states = states_of(kind, molecule, z)
    reference = reference_of(kind, states)
    denoiser = trained(states, reference, steps)
    left = denoising_table(denoiser, states.validation, (0.0,), seed=0).ratios[0]
    score = DenoiserScore(denoiser)
    response = probe_response(score, OU(), reference, states.train[:16], horizon=HORIZON, delta=DELTA, model_batch=256)
    references = (reference, replace(reference, response=response))
    cells: list[Cell] = [kind, states.rank, left]
    for eta in (1.0, 0.5, 0.0):
        cells += [median(solved(denoiser, one, eta, count, "picard").rounds.tolist()) for one in references]
    return [*cells, mismatch(states, solved(denoiser, reference, 1.0, 40 * count, "sequential").x)]


def drawn(molecule: Conformers) -> Conformers:
    """The same number of frames, resampled to equal weights."""
    generator = np.random.default_rng(0)
    chosen = generator.choice(len(molecule.positions), len(molecule.positions), p=molecule.weight)
    return replace(molecule, positions=molecule.positions[chosen], weight=np.full(len(chosen), 1 / len(chosen)))


def main() -> int:
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--steps", type=int, default=3000, help="steps of training in each kind of coordinates")
    options_parser.add_argument("--samples", type=int, default=48)
    options = options_parser.parse_args()
    torch.set_num_threads(1)
    molecule = drawn(load_conformers(find_model("alanine-dipeptide") / HELD_OUT, "held out"))
    steps, count = (20, 2) if options.quick else (options.steps, options.samples)
    report = Report("coordinates")
    z = Internal(molecule)
    rows = [row(kind, molecule, z, steps, count) for kind in KINDS]
    columns = ["coordinates", "modes", "left at log-SNR 0"]
    columns += [f"{name}: {kind}" for name in ("SDE", "eta 0.5", "ODE") for kind in ("Gaussian", "probed")]
    columns.append("mismatch")
    report.add(f"Median rounds to {TOL:g}, {count} samples, {STEPS} steps", columns, rows)
    limit = STEPS if options.quick else 10
    report.aims.append(at_most("rounds in superposed positions, the default, probed SDE", float(rows[0][4]), limit))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
