"""A small U-Net on a latitude-longitude grid whose convolutions know that the Earth is round.

Most of the work is done at half resolution behind a 2 x 2 pixel-unshuffle stem; the noise level enters every block
through adaptive group normalisation; where the field lives enters through latitude and a few learned maps.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import NetworkConfig


class GridPad(nn.Module):
    """Values beyond the edge of a grid [rows, channels, lat, lon].

    Longitude wraps round. Beyond a pole lie the same latitudes again, mirrored, on the opposite meridian. Regional
    grids (`wrap=False`) repeat their edge.
    """

    def __init__(self, wrap: bool):
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor, width: int = 1) -> Tensor:
        return self.pad(x, (width, width, width, width))

    def pad(self, x: Tensor, widths: tuple[int, int, int, int]) -> Tensor:
        """x with (west, east, top, bottom) more columns and rows; none may exceed the grid itself."""
        west, east, top, bottom = widths
        if not self.wrap:
            return functional.pad(x, widths, mode="replicate")
        half, last = x.shape[-1] // 2, x.shape[-2]
        if top:
            x = torch.cat([x[..., :top, :].flip(-2).roll(half, -1), x], dim=-2)
        if bottom:
            x = torch.cat([x, x[..., top + last - bottom :, :].flip(-2).roll(half, -1)], dim=-2)
        return functional.pad(x, (west, east, 0, 0), mode="circular")


class GridConv(nn.Module):
    """A 3 x 3 convolution over a padded grid; `stride` 2 halves it."""

    def __init__(self, inputs: int, outputs: int, wrap: bool, stride: int = 1):
        super().__init__()
        self.pad = GridPad(wrap)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        padded: Tensor = self.conv(self.pad(x))
        return padded


class AdaptiveNorm(nn.Module):
    """Group normalisation whose gain and shift are functions of the noise level's embedding [rows, embedding]."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.norm = nn.GroupNorm(_groups(channels), channels, affine=False)
        self.film = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        gain, shift = self.film(level)[..., None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(x), 1 + gain)


class Block(nn.Module):
    """Residual block: norm, SiLU, convolution, twice; its second convolution starts at zero, the block at identity."""

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig, wrap: bool):
        super().__init__()
        self.first_norm = AdaptiveNorm(inputs, config.embedding)
        self.first = GridConv(inputs, outputs, wrap)
        self.second_norm = AdaptiveNorm(outputs, config.embedding)
        self.second = GridConv(outputs, outputs, wrap)
        self.dropout = nn.Dropout2d(config.dropout)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.second.conv.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        inner = self.first(functional.silu(self.first_norm(x, level)))
        inner = self.second(self.dropout(functional.silu(self.second_norm(inner, level))))
        total: Tensor = self.skip(x) + inner
        return total


class LevelEmbedding(nn.Module):
    """log-SNR [rows] to features [rows, embedding]: sines and cosines of smooth, geometrically spaced frequencies."""

    frequencies: Tensor

    def __init__(self, embedding: int, pairs: int = 16):
        super().__init__()
        self.register_buffer("frequencies", 0.05 * (2.0 / 0.05) ** torch.linspace(0, 1, pairs), persistent=False)
        self.mix = nn.Sequential(nn.Linear(2 * pairs, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())

    def forward(self, log_snr: Tensor) -> Tensor:
        phase = log_snr[:, None] * self.frequencies
        features: Tensor = self.mix(torch.cat([phase.sin(), phase.cos()], dim=1))
        return features


class GridUNet(nn.Module):
    """F(fields, log-SNR): fields [rows, inputs, lat, lon], log-SNR [rows] -> [rows, outputs, lat, lon], zero at birth.

    `latitudes` in degrees [lat]. Grids that the down-sampling does not divide are padded inside and cropped again.
    """

    sphere: Tensor

    def __init__(self, inputs: int, outputs: int, latitudes: Tensor, nlon: int, wrap: bool, config: NetworkConfig):
        super().__init__()
        self.shape = (len(latitudes), nlon)
        self.pad = GridPad(wrap)
        self.stride = 2 ** len(config.multipliers)
        radians = torch.deg2rad(latitudes.to(torch.float32))
        sphere = torch.stack([radians.sin(), radians.cos()])[:, :, None].expand(2, *self.shape)
        self.register_buffer("sphere", sphere.contiguous(), persistent=False)
        self.maps = nn.Parameter(torch.zeros(config.static_maps, *self.shape))
        self.level = LevelEmbedding(config.embedding)
        widths = [config.width * m for m in config.multipliers]
        self.stem = GridConv(4 * (inputs + 2 + config.static_maps), widths[0], wrap)
        self.down = nn.ModuleList(Block(w, w, config, wrap) for w in widths)
        self.halve = nn.ModuleList(GridConv(a, b, wrap, stride=2) for a, b in pairwise(widths))
        self.middle = Block(widths[-1], widths[-1], config, wrap)
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(Block(w, w, config, wrap) for w in widths)
        self.norm = AdaptiveNorm(widths[0], config.embedding)
        self.head = GridConv(widths[0], 4 * outputs, wrap)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, fields: Tensor, log_snr: Tensor) -> Tensor:
        level = self.level(log_snr)
        static = torch.cat([self.sphere, self.maps]).expand(len(fields), -1, -1, -1)
        x, crop = self._fit(torch.cat([fields, static], dim=1))
        x = self.stem(functional.pixel_unshuffle(x, 2))
        kept = []
        for depth, block in enumerate(self.down):
            x = block(x, level)
            kept.append(x)
            if depth < len(self.halve):
                x = self.halve[depth](x)
        x = self.middle(x, level)
        for depth in reversed(range(len(self.up))):
            if depth < len(self.grow):
                x = functional.pixel_shuffle(self.grow[depth](x), 2) + kept[depth]
            x = self.up[depth](x, level)
        x = functional.pixel_shuffle(self.head(functional.silu(self.norm(x, level))), 2)
        return x[..., crop[0] : crop[0] + self.shape[0], crop[1] : crop[1] + self.shape[1]]

    def _fit(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The grid padded on all sides to a multiple of the stride, and where the original begins."""
        missing = [-size % self.stride for size in self.shape]
        top, west = missing[0] // 2, missing[1] // 2
        if not any(missing):
            return x, (0, 0)
        return self.pad.pad(x, (west, missing[1] - west, top, missing[0] - top)), (top, west)


def latitudes_from(values: np.ndarray) -> Tensor:
    """Latitudes [lat] in degrees; for grids in other coordinates, evenly spaced stand-ins that keep north and south apart."""
    given = torch.from_numpy(np.array(values, dtype=np.float64))
    return given if float(given.abs().max()) <= 90 else torch.linspace(-60, 60, len(given), dtype=torch.float64)


def count_parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(math.prod(p.shape) for p in network.parameters())


def _groups(channels: int) -> int:
    """The largest divisor of the channels not above eight."""
    return next(g for g in range(8, 0, -1) if channels % g == 0)
