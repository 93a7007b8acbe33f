"""Noise is a fixed function of (seed, sample, step), does not depend on batches, and is normally distributed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from piadm_hpc.theory.noise import CHAIN, CORRECTOR, PRIOR, GivenNoise, Noise


def test_draws_never_change() -> None:
    """Stored runs are continued with the same draws, so that a change of these numbers is a change of the file format."""
    drawn = Noise(7, 3, dtype=torch.float64).at([5], [17])[0, 0, 0]
    expected = np.random.Generator(np.random.Philox(key=[7, 17], counter=[0, 0, 5, 1])).standard_normal(3)
    assert np.array_equal(drawn.numpy(), expected)
    assert drawn.tolist() == pytest.approx([1.447417372315105, -0.5166096798259514, -0.6465294824088568], abs=1e-15)


@given(
    samples=st.lists(st.integers(0, 2**40), min_size=1, max_size=5, unique=True), steps=st.lists(st.integers(0, 9999), max_size=4)
)
def test_a_draw_belongs_to_its_sample_and_step(samples: Any, steps: int) -> None:
    source = Noise(3, 4, dtype=torch.float64)
    together = source.at(steps, samples, channels=2)
    for j, step in enumerate(steps):
        for i, sample in enumerate(samples):
            assert torch.equal(source.at([step], [sample], channels=2)[0, 0], together[j, i])


def test_precision_only_rounds() -> None:
    fine, coarse = (Noise(1, 100, dtype=dtype).at([0, 4], [2]) for dtype in (torch.float64, torch.float32))
    assert torch.equal(fine.to(torch.float32), coarse)


def test_streams_steps_samples_seeds_and_channels_differ_and_are_normal() -> None:
    draws = [
        Noise(seed, 500, dtype=torch.float64).at([step], [sample], 2, stream)
        for seed in (0, 1)
        for step in (0, 1)
        for sample in (0, 1)
        for stream in (PRIOR, CHAIN, CORRECTOR)
    ]
    everything = torch.cat([d.reshape(-1, 500) for d in draws])
    assert float(torch.corrcoef(everything).fill_diagonal_(0).abs().max()) < 0.25
    assert kstest(everything.flatten().numpy(), "norm").pvalue > 1e-3


def test_bad_noise_is_refused_with_words() -> None:
    with pytest.raises(ValueError, match="seed must be between 0"):
        Noise(-1, 4)
    with pytest.raises(ValueError, match="noise has 2 samples, x0 has 3"):
        GivenNoise(torch.zeros(5, 2, 4), [0, 1, 2])
    with pytest.raises(ValueError, match="draws for the chain alone"):
        GivenNoise(torch.zeros(5, 1, 4), [0]).at([0], [0], 1, CORRECTOR)
