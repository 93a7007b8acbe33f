"""New increments of the steps that a sweep evaluated, and what the error bound needs to know about them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..theory.chain import affine
from .distribution import Slots
from .problem import Problem
from .strips import cut


def renew(
    b: Tensor,
    rows: Slots,
    problem: Problem,
    tables: tuple[Tensor, Tensor, Tensor],
    draws: Tensor | None,
    move: Tensor,
    z: Tensor,
    score: Tensor,
    scale: float | Tensor,
) -> Tensor:
    """Replace some `rows` of the increments `b` by those at states z [rows, c, n] with scores [rows, k, n].

    `b`, `draws` and the last moves `move` hold all points and slots, [points x slots, c, n]; `tables` are P - A, Q and A at the
    point of each row. Returns [3, rows]: the root mean squares, in units of the data's `scale`, of the change of the increment
    (the defect) and of the move after the step, and the size of the step's terms.
    """
    squares = torch.zeros(4, len(score), dtype=torch.float64)
    # every array is read and written once, strip by strip; temporary arrays stay in the cache
    for strip in problem.strips(score, len(score) * z.shape[-2], scale):
        own, lifting, linear = (cut(table, strip) for table in tables)
        here, noise = z[..., strip], None if draws is None else draws[rows, :, strip]
        new, lifted = problem.increment(noise, own, lifting, here, score[..., strip])
        change = new - b[rows, :, strip]
        b[rows, :, strip] = new
        carried = affine(new, change, linear, move[rows, :, strip])
        squares += torch.stack([problem.mean_square(part, scale, strip) for part in (change, carried, here, lifted)])
    defect, grown, size, lifted_size = squares.sqrt_()
    return torch.stack([defect, grown, size + lifted_size])
