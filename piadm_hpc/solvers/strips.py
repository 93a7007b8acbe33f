"""Strips of coordinates: arithmetic entry by entry on large states is done piece by piece, each in a processor's cache."""

from __future__ import annotations

from torch import Tensor

BYTES = 2**20  # of an array in a strip; between a half and the double sweeps of 1e6 entries take as long


def strips(like: Tensor) -> list[slice]:
    """Cut the coordinates of an array [..., n] into strips of at most about BYTES.

    On an accelerator, which has no such cache and pays for every operation, all coordinates are one strip.
    """
    n = like.shape[-1]
    count = round(like.numel() * like.element_size() / BYTES) if like.device.type == "cpu" else 1
    width = -(-n // max(1, count))
    return [slice(low, low + width) for low in range(0, n, width)]
