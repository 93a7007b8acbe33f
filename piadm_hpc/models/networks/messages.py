"""An equivariant network for the conformers of one molecule, with messages between all pairs of atoms.

The layers are those of Satorras, Hoogeboom and Welling 2021 (EGNN, eqs. 3 to 6), conditioned on the noise level. The features of
an atom come from its place in the graph of bonds, those of a pair from its distance and whether it is bonded, and positions
move along the lines between atoms. The output rotates with the state, and exchanging equivalent atoms exchanges their outputs.
Signed volumes of chiral centres are features too, since distances alone do not distinguish mirror images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...schema.topology import Topology
from ..config import ConformerNetworkConfig
from .unet import LevelEmbedding, with_numbers

FLOOR = 1e-3  # in state units; shorter distances have no direction
REACH, WAVES = 2.5, 24  # standardised distances are expanded in WAVES Gaussians between -REACH and REACH


class Layer(nn.Module):
    """One round of messages: every pair sends one, every atom updates its features and moves. Initially nothing moves."""

    def __init__(self, width: int, embedding: int, features: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(embedding, 2 * width)
        self.of_one, self.of_other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.of_pair = nn.Linear(features, width, bias=False)
        self.message = nn.Linear(width, width)
        self.listen = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.push = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1, bias=False))
        for module in (self.film, self.listen[2], self.push[2]):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    def forward(self, h: Tensor, pairs: Tensor, lines: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [rows, atoms, width] and displacements [rows, atoms, 3] for pairs [rows, atoms, atoms, features]."""
        gain, shift = self.film(level)[:, None].chunk(2, dim=2)
        modulated = torch.addcmul(shift, self.norm(h), 1 + gain)
        inner = functional.silu(self.of_one(modulated)[:, :, None] + self.of_other(modulated)[:, None] + self.of_pair(pairs))
        messages = functional.silu(self.message(inner))
        atoms = h.shape[1]
        h = h + self.listen(torch.cat([modulated, messages.sum(2) / atoms], dim=2))
        push = self.push(messages).to(lines.dtype)
        return h, (push * lines).sum(2) / (atoms - 1)


class MessageNetwork(nn.Module):
    """A network of states [rows, 2, atoms, 3] (noisy state, linear estimate) and log-SNR [rows], returning [rows, 1, atoms, 3].

    `centre` [atoms, 3] is the structure that states are deviations from, in state units; on superposed coordinates the network is
    equivariant about it. With `given` it also takes a condition {"maps": [rows, 1, atoms, 3], "numbers": [rows, given]}, whose
    map is the mean that states are deviations from beside `centre`. Initially it returns zero.
    """

    centre: Tensor
    looks: Tensor
    bonded: Tensor
    centres: Tensor

    def __init__(self, centre: Tensor, topology: Topology, config: ConformerNetworkConfig, given: int | None = None):
        super().__init__()
        looks = topology.atom_classes()
        self.register_buffer("centre", centre.to(torch.float32), persistent=False)
        self.register_buffer("looks", torch.tensor(looks), persistent=False)
        self.register_buffer("bonded", _bonded(topology)[..., None], persistent=False)
        centres = torch.tensor(topology.centres(), dtype=torch.long).reshape(-1, 4)
        self.register_buffer("centres", centres, persistent=False)
        # statistics of the training frames, stored with the weights and never trained
        self.typical = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(2), requires_grad=False)
        self.level = LevelEmbedding(config.embedding)
        self.kinds = nn.Embedding(max(looks) + 1, config.width)
        self.hands = nn.Linear(1, config.width, bias=False)
        self.layers = nn.ModuleList(Layer(config.width, config.embedding, WAVES + 2) for _ in range(config.depth))
        self.given = None if given is None else nn.Linear(given, config.embedding)

    def calibrate(self, frames: Tensor) -> None:
        """Set the typical distance, and the spreads of distances and volumes, from states [n, atoms, 3]."""
        positions = frames.to(torch.float32) + self.centre
        atoms = positions.shape[1]
        first, second = torch.triu_indices(atoms, atoms, 1)
        distances, volumes = _lines(positions)[1][:, first, second], self._volumes(positions)
        with torch.no_grad():
            self.typical.copy_(distances.mean())
            self.spread[0] = distances.std().clamp(min=FLOOR)
            if len(self.centres):
                self.spread[1] = volumes.std().clamp(min=FLOOR)

    def forward(self, states: Tensor, log_snr: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        level = with_numbers(self.level(log_snr), self.given, condition)
        start = states[:, 1] + placed(self.centre, condition)
        # the error of the estimate, per coordinate of unit variance
        error = torch.rsqrt(1 + log_snr.exp())[:, None]
        h = self._features(start, error)
        positions = start
        for layer in self.layers:
            with torch.autocast(states.device.type, enabled=False):  # lengths need full precision
                lines, distances = _lines(positions)
                pairs = self._pairs(distances, error)
            h, moves = layer(h, pairs, lines, level)
            positions = positions + moves
        moved: Tensor = (positions - start)[:, None]
        return moved

    def _features(self, positions: Tensor, error: Tensor) -> Tensor:
        """Return the features of atoms: the class of equivalent atoms, and the signed volume of chiral centres."""
        h: Tensor = self.kinds(self.looks).expand(len(positions), -1, -1)
        if not len(self.centres):
            return h
        volumes = self._volumes(positions) / torch.sqrt(self.spread[1] ** 2 + 2 * error**2)
        hands = torch.zeros(h.shape[:2], dtype=h.dtype, device=h.device).index_add(1, self.centres[:, 0], volumes)
        handed: Tensor = h + self.hands(hands[..., None])
        return handed

    def _volumes(self, positions: Tensor) -> Tensor:
        """Return signed volumes [rows, centres] at chiral centres."""
        first, *others = (positions[:, self.centres[:, k]] for k in range(4))
        a, b, c = (other - first for other in others)
        volumes: Tensor = (a * torch.linalg.cross(b, c, dim=2)).sum(2)
        return volumes

    def _pairs(self, distances: Tensor, error: Tensor) -> Tensor:
        """Return the features of pairs: the standardised distance, its expansion in Gaussians, and whether it is bonded."""
        wide = torch.sqrt(self.spread[0] ** 2 + 2 * error[:, :, None] ** 2)
        scaled = ((distances - self.typical) / wide)[..., None]
        tops = torch.linspace(-REACH, REACH, WAVES, device=scaled.device)
        bells = torch.exp(-(((scaled - tops) * (WAVES / (2 * REACH))) ** 2))
        return torch.cat([scaled, bells, self.bonded.expand(len(scaled), -1, -1, -1)], dim=3)


def placed(centre: Tensor, condition: Mapping[str, Tensor] | None) -> Tensor:
    """Return the structure that states are deviations from, [atoms, 3], or of every row given its condition."""
    return centre if condition is None else centre + condition["maps"][:, -1]


def _bonded(topology: Topology) -> Tensor:
    """Return the adjacency matrix of bonds, [atoms, atoms]."""
    bonded = torch.zeros(len(topology), len(topology))
    for one, other in topology.bonds:
        bonded[one, other] = bonded[other, one] = 1
    return bonded


def _lines(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors [rows, atoms, atoms, 3] from second to first atom, and distances [rows, atoms, atoms]."""
    apart = positions[:, :, None] - positions[:, None]
    distances = torch.sqrt((apart**2).sum(3) + FLOOR**2)
    return apart / distances[..., None], distances
