"""Processes agree with their definitions, grids with the step rule of the paper, and partitions have their properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from piadm_hpc import grid
from piadm_hpc.theory.grid import Partition, TimeGrid
from piadm_hpc.theory.process import EDM, OU, VP, Flow, VPSchedule, by_name, forward_time, radius

LINEAR = VPSchedule(lambda t: 0.1 * t + 19.9 * t**2 / 2, horizon=2.0)
PROCESSES = [OU(), VP(), EDM(), Flow(), LINEAR]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_time_inverts_forward_time(process: Any) -> None:
    theta = torch.logspace(-3, 0.9, 40, dtype=torch.float64)
    assert torch.allclose(forward_time(process, process.time(theta)), theta, rtol=1e-9)


@pytest.mark.parametrize("process", [OU(), VP(), LINEAR], ids=lambda p: type(p).__name__)
def test_variance_preserving_processes_have_radius_one(process: Any) -> None:
    t = torch.linspace(0.01, 0.99, 20, dtype=torch.float64)
    assert torch.allclose(radius(process, t), torch.ones_like(t), rtol=1e-12)


def test_any_beta_schedule_agrees_with_the_closed_form() -> None:
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    assert torch.allclose(LINEAR.alpha(t), VP().alpha(t), rtol=1e-12)
    assert torch.allclose(LINEAR.sigma(t), VP().sigma(t), rtol=1e-12)


def test_unknown_process_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known are ou, vp, edm, flow"):
        by_name("ornstein")


@given(total=st.integers(0, 300), parts=st.integers(1, 40))
def test_partition_covers_everything_once_in_nearly_equal_slices(total: int, parts: int) -> None:
    cut = Partition(total, parts)
    items = [item for part in range(parts) for item in range(cut.slice(part).start, cut.slice(part).stop)]
    lengths = [cut.length(part) for part in range(parts)]
    assert items == list(range(total))
    assert max(lengths) - min(lengths) <= 1
    assert all(cut.slice(cut.owner(item)).start <= item < cut.slice(cut.owner(item)).stop for item in range(total))


@given(horizon=st.floats(0.5, 12), delta=st.floats(1e-4, 0.1), step=st.floats(0.01, 0.5), block=st.floats(0.3, 3))
def test_published_grid_obeys_the_step_rule(horizon: float, delta: float, step: float, block: Any) -> None:
    made = grid.piadm(OU(), horizon=horizon, delta=delta, step=step, block=block)
    theta = made.t
    assert theta[0] == horizon and abs(float(theta[-1]) - delta) < 1e-12
    sizes = theta[:-1] - theta[1:]
    last = made.edges[-2]
    assert bool((sizes[:last] <= step * (1 + 1e-9)).all())
    # eps_{N-1,m} <= eps (remaining time after the step); capped by eps itself where more than one unit remains
    assert bool((sizes[last:] <= step * theta[last + 1 :] * (1 + 1e-9)).all())


def test_blocks_are_consecutive_and_cover_the_grid() -> None:
    made = grid.log_snr(OU(), 20, horizon=8.0, delta=1e-3, num_blocks=3)
    blocks = list(made.blocks())
    assert [len(block) for block in blocks] == [7, 7, 6]
    assert blocks[0].start == 0 and blocks[-1].stop == 20
    equal = made.with_edges_at(torch.arange(21.0), 4)
    assert equal.edges == (0, 5, 10, 15, 20)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TimeGrid(torch.tensor([1.0, 2.0]), (0, 1)), "strictly decreasing"),
        (lambda: TimeGrid(torch.tensor([2.0, float("nan")]), (0, 1)), "finite"),
        (lambda: TimeGrid(torch.tensor([2.0, 1.0, 0.5]), (0, 1)), "block edges must increase from 0 to 2"),
        (lambda: grid.piadm(OU(), horizon=1.0, delta=2.0, step=-1.0), "delta .*; step must be positive"),
        (lambda: grid.log_snr(OU(), 4, horizon=8.0, delta=1e-3, num_blocks=5), "num_blocks must be between 1 and the 4"),
        (lambda: Partition(3, 0), "cannot cut 3 items into 0 slices"),
    ],
)
def test_bad_grids_are_refused_with_words(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
