"""New increments of the steps that a sweep evaluated, and what the error bound needs to know about them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..theory.chain import affine
from .distribution import Slots, evenly
from .problem import Problem
from .tables import Tables


def renew(
    b: Tensor,
    rows: Slots,
    problem: Problem,
    tables: tuple[Tables, Tables, Tables],
    local: Tensor,
    draws: Tensor | None,
    move: Tensor,
    z: Tensor,
    score: Tensor,
    scale: float | Tensor,
) -> Tensor:
    """Replace some `rows` of the increments `b` by those at states z [rows, c, n] with scores [rows, k, n].

    `b`, `draws` and the last moves `move` hold all points and slots, [points x slots, c, n]; `tables` are P - A, Q and A, and
    `local` are the positions of the rows' points in them. Returns [3, rows], in units of the data's `scale`: the root mean
    squares of the change of the increment (the defect) and of the move after the step, and the size of the step's terms.
    """
    # consecutive rows of one point share its tables
    group = math.gcd(*local.bincount().tolist())
    points = evenly(local[::group])

    def grouped(part: Tensor) -> Tensor:
        return part.view(-1, group, *part.shape[1:])

    z, score = grouped(z), grouped(score)
    squares = torch.zeros(4, *score.shape[:2], dtype=torch.float64)
    # every array is read and written once, strip by strip; temporary arrays stay in the cache
    for strip in problem.strips(z, scale):
        own, lifting, linear = (table.rows(points, strip)[:, None] for table in tables)
        noise = None if draws is None else grouped(draws[rows, :, strip])
        old, moved = grouped(b[rows, :, strip]), grouped(move[rows, :, strip])
        here = z[..., strip]
        new, lifted = problem.increment(noise, own, lifting, here, score[..., strip])
        change = new - old
        b[rows, :, strip] = new.flatten(0, 1)
        carried = affine(new, change, linear, moved)
        squares += torch.stack([problem.mean_square(part, scale, strip) for part in (change, carried, here, lifted)])
    defect, grown, size, lifted_size = squares.sqrt_().flatten(1)
    return torch.stack([defect, grown, size + lifted_size])
