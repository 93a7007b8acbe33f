"""A small U-Net on a latitude-longitude grid whose convolutions continue around the globe and across the poles.

Most of the work is done at half resolution, behind a 2 x 2 pixel-unshuffle stem. The noise level conditions every block through
adaptive group normalisation; latitude and a few learned maps tell the network where on the grid it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...data.geometry import Wrap
from ..config import NetworkConfig


class GridPad(nn.Module):
    """Padding of a grid [rows, channels, lat, lon] beyond its edges.

    Longitudes are periodic. Beyond a pole the same latitudes follow in reverse order on the opposite meridian. With
    `wrap="both"` rows are periodic too. Regional grids (`wrap=False`) repeat their edge.
    """

    def __init__(self, wrap: Wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor, width: int = 1) -> Tensor:
        return self.pad(x, (width, width, width, width))

    def pad(self, x: Tensor, widths: tuple[int, int, int, int]) -> Tensor:
        """Return x with (west, east, top, bottom) further columns and rows, each at most as many as the grid has."""
        west, east, top, bottom = widths
        if not self.wrap:
            return functional.pad(x, widths, mode="replicate")
        if self.wrap == "both":
            return functional.pad(x, widths, mode="circular")
        rows, columns = x.shape[-2:]
        north, south = (x[..., edge, :].flip(-2).roll(columns // 2, -1) for edge in (slice(top), slice(rows - bottom, rows)))
        tall = torch.cat([north, x, south], dim=-2)
        return torch.cat([tall[..., columns - west :], tall, tall[..., :east]], dim=-1)


class Convolution(nn.Module):
    """A convolution over a point and its neighbours, whose weights are those of `conv`."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv


class GridConv(Convolution):
    """A 3 x 3 convolution over a padded grid; a `stride` of 2 halves the resolution."""

    def __init__(self, inputs: int, outputs: int, wrap: Wrap, stride: int = 1):
        super().__init__(nn.Conv2d(inputs, outputs, 3, stride=stride))
        self.pad = GridPad(wrap)

    def forward(self, x: Tensor) -> Tensor:
        padded: Tensor = self.conv(self.pad(x))
        return padded


class AdaptiveNorm(nn.Module):
    """Group normalisation whose gain and shift depend on the embedding of the noise level, [rows, embedding]."""

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
    """A residual block of norm, SiLU and convolution, twice; its second convolution is initially zero, the block the identity.

    `convolve` makes a convolution from the numbers of its inputs and outputs.
    """

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig, convolve: Callable[[int, int], Convolution]):
        super().__init__()
        self.first_norm = AdaptiveNorm(inputs, config.embedding)
        self.first = convolve(inputs, outputs)
        self.second_norm = AdaptiveNorm(outputs, config.embedding)
        self.second = convolve(outputs, outputs)
        self.dropout = nn.Dropout2d(config.dropout)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.second.conv.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        inner = self.first(functional.silu(self.first_norm(x, level)))
        inner = self.second(self.dropout(functional.silu(self.second_norm(inner, level))))
        total: Tensor = self.skip(x) + inner
        return total


class LevelEmbedding(nn.Module):
    """Features [rows, embedding] of log-SNR [rows], from sines and cosines of low, geometrically spaced frequencies."""

    frequencies: Tensor

    def __init__(self, embedding: int, pairs: int = 16):
        super().__init__()
        self.register_buffer("frequencies", 0.05 * (2.0 / 0.05) ** torch.linspace(0, 1, pairs), persistent=False)
        self.mix = nn.Sequential(nn.Linear(2 * pairs, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())

    def forward(self, log_snr: Tensor) -> Tensor:
        phase = log_snr[:, None] * self.frequencies
        features: Tensor = self.mix(torch.cat([phase.sin(), phase.cos()], dim=1))
        return features


def with_numbers(level: Tensor, given: nn.Linear | None, condition: Mapping[str, Tensor] | None) -> Tensor:
    """Add what the layer `given` makes of a condition's numbers to features of the noise level; without a layer these alone.

    Raises ValueError where a network with such a layer is given no condition.
    """
    if given is None:
        return level
    if condition is None:
        raise ValueError("the network was trained with conditions; give one")
    informed: Tensor = level + given(condition["numbers"])
    return informed


class GridUNet(nn.Module):
    """A network of fields [rows, inputs, lat, lon] and log-SNR [rows], returning [rows, outputs, lat, lon], initially zero.

    With `given` = (k, q) it also takes a condition {"maps": [rows, k, lat, lon], "numbers": [rows, q]}: maps join the fields, and
    numbers the features of the noise level.

    `latitudes` [lat] are in degrees. Grids that the downsampling does not divide are padded inside and cropped again.
    """

    sphere: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        latitudes: Tensor,
        nlon: int,
        wrap: Wrap,
        config: NetworkConfig,
        given: tuple[int, int] | None = None,
    ):
        super().__init__()
        num_maps, num_numbers = given or (0, 0)
        self.given = None if given is None else nn.Linear(num_numbers, config.embedding)
        self.shape = (len(latitudes), nlon)
        self.pad = GridPad(wrap)
        self.stride = 2 ** len(config.multipliers)
        radians = torch.deg2rad(latitudes.to(torch.float32))
        sphere = torch.stack([radians.sin(), radians.cos()])[:, :, None].expand(2, *self.shape)
        self.register_buffer("sphere", sphere.contiguous(), persistent=False)
        self.maps = nn.Parameter(torch.zeros(config.static_maps, *self.shape))
        self.level = LevelEmbedding(config.embedding)
        widths, convolve = [config.width * m for m in config.multipliers], partial(GridConv, wrap=wrap)
        self.stem = GridConv(4 * (inputs + num_maps + 2 + config.static_maps), widths[0], wrap)
        self.down = nn.ModuleList(Block(w, w, config, convolve) for w in widths)
        self.halve = nn.ModuleList(GridConv(a, b, wrap, stride=2) for a, b in pairwise(widths))
        self.middle = Block(widths[-1], widths[-1], config, convolve)
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(Block(w, w, config, convolve) for w in widths)
        self.norm = AdaptiveNorm(widths[0], config.embedding)
        self.head = GridConv(widths[0], 4 * outputs, wrap)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, fields: Tensor, log_snr: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        level = with_numbers(self.level(log_snr), self.given, condition)
        if self.given is not None and condition is not None:
            fields = torch.cat([fields, condition["maps"]], dim=1)
        x, crop = self._begin(fields)
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

    def _begin(self, fields: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Convolve fields and static maps to half resolution, the maps once for all rows; also returns the place of the crop."""
        fitted, crop = self._fit(fields)
        static, _ = self._fit(torch.cat([self.sphere, self.maps])[None])
        own, shared = (self.stem.pad(functional.pixel_unshuffle(part, 2)) for part in (fitted, static))
        weights = torch.split(self.stem.conv.weight, [own.shape[1], shared.shape[1]], dim=1)
        return functional.conv2d(own, weights[0], self.stem.conv.bias) + functional.conv2d(shared, weights[1]), crop

    def _fit(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pad the grid on all sides to a multiple of the stride; returns it and the place at which the original begins."""
        missing = [-size % self.stride for size in self.shape]
        top, west = missing[0] // 2, missing[1] // 2
        if not any(missing):
            return x, (0, 0)
        return self.pad.pad(x, (west, missing[1] - west, top, missing[0] - top)), (top, west)


def latitudes_from(values: np.ndarray) -> Tensor:
    """Return latitudes [lat] in degrees; grids in other coordinates get evenly spaced ones, to distinguish their rows."""
    given = torch.from_numpy(np.array(values, dtype=np.float64))
    return given if float(given.abs().max()) <= 90 else torch.linspace(-60, 60, len(given), dtype=torch.float64)


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters of a network."""
    return sum(math.prod(p.shape) for p in network.parameters())


def _groups(channels: int) -> int:
    """Return the largest divisor of the number of channels that is at most eight."""
    return next(g for g in range(8, 0, -1) if channels % g == 0)
