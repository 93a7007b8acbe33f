"""A small network for the conformers of one molecule: from the distances of all pairs of atoms to forces along them.

The atoms are few and always the same, so the whole molecule is one token. Distances of all pairs and signed volumes of bonded
quadruples enter a residual perceptron, which returns one coefficient per pair, a force along the line between its atoms (the
equivariant step of Satorras et al. 2021, EGNN, eq. 4, with the messages of all pairs mixed by one matrix). Volumes distinguish
mirror images. On superposed coordinates the positions themselves are input and output too; without them the network is
equivariant under rotations.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...data.normalise import Normalisation
from ...schema.topology import Topology
from ..config import ConformerNetworkConfig
from .messages import MessageNetwork, placed
from .unet import LevelEmbedding, with_numbers

FLOOR = 1e-3  # in state units; shorter distances have no direction


class Mixer(nn.Module):
    """A residual block of two layers, with gain and shift from the noise level; initially the identity."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(embedding, 2 * width)
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        for parameter in (*self.film.parameters(), *self.second.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        gain, shift = self.film(level).chunk(2, dim=1)
        inner = torch.addcmul(shift, self.norm(h), 1 + gain)
        total: Tensor = h + self.second(functional.silu(self.first(inner)))
        return total


class ConformerNetwork(nn.Module):
    """A network of states [rows, 2, atoms, 3] (noisy state, linear estimate) and log-SNR [rows], returning [rows, 1, atoms, 3].

    `centre` [atoms, 3] is the structure that states are deviations from, in state units. `quadruples` [q, 4] are the atoms whose
    signed volumes are inputs. `calibrate` sets the scales of distances and volumes. With `given` it also takes a condition
    {"maps": [rows, 1, atoms, 3], "numbers": [rows, given]}, whose map is the mean that states are deviations from beside
    `centre`. Initially the network returns zero.
    """

    centre: Tensor
    lines: Tensor
    corners: Tensor

    def __init__(
        self, centre: Tensor, quadruples: Tensor, superposed: bool, config: ConformerNetworkConfig, given: int | None = None
    ):
        super().__init__()
        atoms = len(centre)
        self.superposed = superposed
        pairs = torch.triu_indices(atoms, atoms, 1)
        num_pairs, num_quads = pairs.shape[1], len(quadruples)
        self.register_buffer("centre", centre.to(torch.float32), persistent=False)
        # differences between atoms as products with matrices of -1, 0 and 1, which is fast on every device
        self.register_buffer("lines", _differences(pairs[0], pairs[1], atoms), persistent=False)
        first = quadruples[:, :1].expand(-1, 3).T.reshape(-1)
        self.register_buffer("corners", _differences(quadruples[:, 1:].T.reshape(-1), first, atoms), persistent=False)
        # statistics of the training frames, stored with the weights and never trained
        self.typical = nn.Parameter(torch.zeros(num_pairs + num_quads), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(num_pairs + num_quads), requires_grad=False)
        inputs = num_pairs + num_quads + (6 * atoms if superposed else 0)
        self.level = LevelEmbedding(config.embedding)
        self.entry = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(Mixer(config.width, config.embedding) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.film = nn.Linear(config.embedding, 2 * config.width)
        self.forces = nn.Linear(config.width, num_pairs)
        self.stiffness = nn.Linear(config.embedding, num_pairs)
        self.moves = nn.Linear(config.width, 3 * atoms) if superposed else None
        self.given = None if given is None else nn.Linear(given, config.embedding)
        heads = [self.film, self.forces, self.stiffness] + ([] if self.moves is None else [self.moves])
        for parameter in (p for head in heads for p in head.parameters()):
            nn.init.zeros_(parameter)

    def calibrate(self, frames: Tensor) -> None:
        """Set typical distances and volumes, and their spreads, from states [n, atoms, 3]."""
        distances, _, volumes = self._geometry(frames.to(torch.float32) + self.centre)
        features = torch.cat([distances, volumes], dim=1)
        with torch.no_grad():
            self.typical.copy_(features.mean(0))
            self.spread.copy_(features.std(0).clamp(min=FLOOR))

    def forward(self, states: Tensor, log_snr: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        noisy, estimate = states.unbind(1)
        level = with_numbers(self.level(log_snr), self.given, condition)
        distances, lines, volumes = self._geometry(estimate + placed(self.centre, condition))
        # the error of the estimate, per coordinate of unit variance
        error = torch.rsqrt(1 + log_snr.exp())[:, None]
        features = (torch.cat([distances, volumes], dim=1) - self.typical) / torch.sqrt(self.spread**2 + 2 * error**2)
        inputs = [features, noisy.flatten(1), estimate.flatten(1)] if self.superposed else [features]
        h = functional.silu(self.entry(torch.cat(inputs, dim=1)))
        for block in self.blocks:
            h = block(h, level)
        gain, shift = self.film(level).chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm(h), 1 + gain)
        forces = self.forces(h) + self.stiffness(level) * features[:, : distances.shape[1]]
        # the force on an atom is the sum over its pairs; those of a pair are equal and opposite
        with torch.autocast(states.device.type, enabled=False):
            out: Tensor = ((forces.to(lines.dtype)[:, None] * lines) @ self.lines.T).mT
        if self.moves is not None:
            out = out + self.moves(h).reshape(out.shape)
        return out[:, None]

    def _geometry(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances [rows, pairs], unit vectors along them [rows, 3, pairs], and signed volumes [rows, quadruples]."""
        with torch.autocast(positions.device.type, enabled=False):  # lengths need full precision
            apart = positions.mT @ self.lines
            a, b, c = (positions.mT @ self.corners).chunk(3, dim=2)
        distances = torch.sqrt((apart**2).sum(1) + FLOOR**2)
        return distances, apart / distances[:, None], (a * torch.linalg.cross(b, c, dim=1)).sum(1)


def _differences(plus: Tensor, minus: Tensor, atoms: int) -> Tensor:
    """Return the matrix [atoms, n], float32, whose columns subtract atom `minus` from atom `plus`."""
    eye = torch.eye(atoms)
    return (eye[plus] - eye[minus]).T.contiguous()


def make_conformer_network(
    config: ConformerNetworkConfig,
    normalisation: Normalisation,
    topology: Topology,
    superposed_frame: bool,
    seed: int = 0,
    given: int | None = None,
) -> ConformerNetwork | MessageNetwork:
    """Return a network for a molecule, of the kind that its configuration names, with weights drawn from `seed`.

    `given` is the number of numbers of its condition, None without one.
    """
    centre = torch.from_numpy(normalisation.mean[0] / normalisation.scale[0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.kind == "messages":
            return MessageNetwork(centre, topology, config, given)
        quadruples = torch.tensor(topology.quadruples(), dtype=torch.long).reshape(-1, 4)
        return ConformerNetwork(centre, quadruples, superposed_frame, config, given)
