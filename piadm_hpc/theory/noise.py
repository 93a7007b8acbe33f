"""Standard normal draws as a function of (seed, sample, step): randomness belongs to the sample, not to a rank or a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

PRIOR = 0
CHAIN = 1
CORRECTOR = 2
OBSERVED = 3  # of forecasts that observations correct
BUFFERED = 2**20  # numbers drawn in float64 before they are rounded


class NoiseSource(Protocol):
    """The standard normal draws of a run, which are the same at every call."""

    def at(self, steps: Iterable[int], samples: Sequence[int], channels: int = 1, stream: int = CHAIN) -> Tensor:
        """Return draws [steps, samples, channels, d] for the given step numbers and sample ids."""
        ...


class Noise:
    """Counter-based draws: Philox4x64 with key (seed, sample) and counter (0, channel, step, stream), float64 ziggurat.

    The numbers are the same on every machine, in any order and for any subset; `dtype` only rounds them. They are drawn on the
    host, so that a device never changes a sample. Samples whose ids agree in id // `stride` get the same draws, those of the
    sample id // `stride`. Raises ValueError for a seed outside 0 .. 2^63 - 1.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        stride: int = 1,
    ):
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be between 0 and 2**63 - 1, got {seed}")
        self.seed, self.size, self.dtype, self.device, self.stride = seed, size, dtype, torch.device(device), stride

    def at(self, steps: Iterable[int], samples: Sequence[int], channels: int = 1, stream: int = CHAIN) -> Tensor:
        steps = list(steps)
        drawn = torch.empty(len(steps), len(samples), channels, self.size, dtype=self.dtype, device=self.device)
        # one generator takes every key and counter in turn, because to build one takes longer than short draws
        source = np.random.Philox(key=0)
        generator, state = np.random.Generator(source), source.state
        rows = max(1, BUFFERED // (channels * self.size))
        buffer = np.empty((min(rows, len(samples)), channels, self.size))
        for j, step in enumerate(steps):
            for start in range(0, len(samples), rows):
                part = samples[start : start + rows]
                for i, sample in enumerate(part):
                    for channel in range(channels):
                        state["state"]["key"][:] = self.seed, sample // self.stride
                        state["state"]["counter"][:] = 0, channel, step, stream
                        source.state = state
                        generator.standard_normal(out=buffer[i, channel])
                drawn[j, start : start + rows] = torch.from_numpy(buffer[: len(part)])
        return drawn


class GivenNoise:
    """Draws given as a tensor [J, samples, *event], or [J, samples, c, *event] for c channels, in the order of the samples."""

    def __init__(self, draws: Tensor, samples: Sequence[int], channels: int = 1):
        if draws.shape[1] != len(samples):
            raise ValueError(f"noise has {draws.shape[1]} samples, x0 has {len(samples)}; give noise [steps, samples, *event]")
        self.draws = draws.reshape(draws.shape[0], draws.shape[1], channels, -1)
        self.position = {sample: i for i, sample in enumerate(samples)}

    def at(self, steps: Iterable[int], samples: Sequence[int], channels: int = 1, stream: int = CHAIN) -> Tensor:
        if stream != CHAIN:
            raise ValueError("a noise tensor has draws for the chain alone; give Noise(seed, size) beside a corrector")
        return self.draws[list(steps)][:, [self.position[sample] for sample in samples]]
