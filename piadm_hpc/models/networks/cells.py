"""A small U-Net on cells, of HEALPix or any other mesh on the sphere, chosen where fields have one dimension of cells.

A convolution has nine taps, as a 3 x 3 one has on rows and columns: a cell, and the cells nearest to the points one spacing away
from it to the north, north-east, east and so on. Coarser levels are points of a Fibonacci lattice (Gonzalez 2010,
doi:10.1007/s11004-009-9257-x), each the mean of the finer points nearest to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional

from ...data.geometry import unit_vectors
from ..config import NetworkConfig
from .unet import AdaptiveNorm, Block, Convolution, LevelEmbedding, with_numbers

TURNS = np.arange(8) * (math.pi / 4)


def spacing_of(points: np.ndarray) -> float:
    """Return the median distance of points on the sphere [n, 3] from the next, in radians; that of a single point is pi."""
    return float(np.median(KDTree(points).query(points, k=[2])[0])) if len(points) > 1 else math.pi


def stencil(points: np.ndarray) -> Tensor:
    """Return the places [9, n] of every point of the sphere [n, 3] and of the points one spacing away from it, all around."""
    east = np.column_stack([-points[:, 1], points[:, 0], np.zeros(len(points))])
    length = np.linalg.norm(east, axis=1, keepdims=True)
    east = np.where(length > 1e-6, east / np.maximum(length, 1e-6), [0.0, 1.0, 0.0])  # at a pole all directions are alike
    north = np.cross(points, east)
    tree, angle = KDTree(points), spacing_of(points)
    around = [points * math.cos(angle) + (np.cos(a) * north + np.sin(a) * east) * math.sin(angle) for a in TURNS]
    return torch.from_numpy(np.stack([tree.query(there)[1] for there in (points, *around)]))


def thinned(points: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Return about a quarter as many points of the sphere [m, 3], and the nearest of them to each of the `points` [n]."""
    count = max(1, round(4 * math.pi / (2 * spacing_of(points)) ** 2))
    z = 1 - (2 * np.arange(count) + 1) / count
    turn = math.pi * (1 + math.sqrt(5)) * np.arange(count)
    lattice = np.column_stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z])
    used, nearest = np.unique(KDTree(lattice).query(points)[1], return_inverse=True)
    return lattice[used], torch.from_numpy(nearest)


class StencilConv(Convolution):
    """A convolution over the taps `places` [9, n] of points, of fields [rows, channels, 1, n]."""

    places: Tensor

    def __init__(self, inputs: int, outputs: int, places: Tensor):
        super().__init__(nn.Conv2d(9 * inputs, outputs, 1))
        self.register_buffer("places", places, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        taps = x[:, :, 0].index_select(2, self.places.flatten()).reshape(*x.shape[:2], len(self.places), -1)
        result: Tensor = self.conv(taps.reshape(len(x), -1, 1, x.shape[-1]))
        return result


class Pool(nn.Module):
    """Means of fields [rows, channels, 1, n] over the points that share a coarser one, by its place `nearest` [n]."""

    nearest: Tensor
    share: Tensor

    def __init__(self, nearest: Tensor):
        super().__init__()
        self.register_buffer("nearest", nearest, persistent=False)
        self.register_buffer("share", 1 / torch.bincount(nearest).to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        sums = x.new_zeros(*x.shape[:3], len(self.share)).index_add(3, self.nearest, x)
        return sums * self.share.to(x)

    def back(self, x: Tensor) -> Tensor:
        """Return fields of the coarser points [rows, channels, 1, m] at the finer ones."""
        return x.index_select(3, self.nearest)


class CellUNet(nn.Module):
    """A network of fields [rows, inputs, cells] and log-SNR [rows], returning [rows, outputs, cells]; at first it is zero.

    Cells lie at `latitudes` and `longitudes` [cells] in degrees. Every level has a quarter of the points of the one before, and
    the first of the configuration's levels the quarter of the cells. `given` are the numbers of maps and of numbers of a
    condition, as for `GridUNet`.
    """

    places: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        latitudes: np.ndarray,
        longitudes: np.ndarray,
        config: NetworkConfig,
        given: tuple[int, int] | None = None,
    ):
        super().__init__()
        num_maps, num_numbers = given or (0, 0)
        self.given = None if given is None else nn.Linear(num_numbers, config.embedding)
        points = unit_vectors(latitudes, longitudes)
        widths = [config.width * m for m in config.multipliers]
        self.register_buffer("places", torch.from_numpy(points.T.copy()).to(torch.float32), persistent=False)
        self.maps = nn.Parameter(torch.zeros(config.static_maps, len(points)))
        self.level = LevelEmbedding(config.embedding)
        taps = stencil(points)
        self.stem = StencilConv(inputs + num_maps + 3 + config.static_maps, widths[0], taps)
        self.pools, stencils = nn.ModuleList(), []
        for _ in widths:
            points, nearest = thinned(points)
            self.pools.append(Pool(nearest))
            stencils.append(stencil(points))
        blocks = [
            [Block(w, w, config, partial(StencilConv, places=s)) for w, s in zip(widths, stencils, strict=True)] for _ in range(2)
        ]
        self.down, self.up = (nn.ModuleList(part) for part in blocks)
        self.widen = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.norm = AdaptiveNorm(widths[0], config.embedding)
        self.head = StencilConv(widths[0], outputs, taps)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, fields: Tensor, log_snr: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        level = with_numbers(self.level(log_snr), self.given, condition)
        x = fields.reshape(len(fields), -1, 1, self.places.shape[1])
        if self.given is not None and condition is not None:
            x = torch.cat([x, condition["maps"].reshape(len(x), -1, *x.shape[2:])], dim=1)
        static = torch.cat([self.places, self.maps])[None, :, None].expand(len(x), -1, -1, -1)
        first = x = self.stem(torch.cat([x, static.to(x)], dim=1))
        kept, pools = [], cast(list[Pool], list(self.pools))
        for depth, block in enumerate(self.down):
            x = pools[depth](x)
            x = block(x if depth == 0 else self.widen[depth - 1](x), level)
            kept.append(x)
        for depth in reversed(range(len(self.up))):
            x = self.up[depth](x if depth == len(self.up) - 1 else x + kept[depth], level)
            x = pools[depth].back(x if depth == 0 else self.narrow[depth - 1](x))
        result: Tensor = self.head(functional.silu(self.norm(first + x, level)))[:, :, 0]
        return result
