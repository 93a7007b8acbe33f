"""Strips of coordinates: arithmetic entry by entry on large states is done piece by piece, each in a processor's cache."""

from __future__ import annotations

from torch import Tensor

BYTES = 2**20  # of an array in a strip; between a half and the double sweeps of 1e6 entries take as long


def strips(like: Tensor, arrays: int) -> list[slice]:
    """Cut the coordinates of states like `like` [..., n] into strips in which so many states take BYTES.

    On an accelerator, which has no such cache and pays for every operation, all coordinates are one strip.
    """
    n = like.shape[-1]
    width = max(1, BYTES // (max(1, arrays) * like.element_size())) if like.device.type == "cpu" else n
    # strips of one width each: a narrow last one would cost as much as the others
    count = max(1, -(-n // width))
    width = max(1, -(-n // count))
    return [slice(low, low + width) for low in range(0, n, width)]


def cut(table: Tensor, strip: slice) -> Tensor:
    """Return a table [..., n or 1, c, k] at the coordinates of a strip."""
    return table if table.shape[-3] == 1 else table[..., strip, :, :]
