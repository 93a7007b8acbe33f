"""The record of a foreign network that was loaded, whatever kind of file it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LoadedNetwork:
    """A network that was loaded: the function to call, the precision of its weights (None without any), and its digest.

    `call` takes states [rows, *event] and times [rows], the node mask [rows, nodes, 1] where the adapter asks for it, and for a
    conditional network the encoded condition, a dictionary of tensors.
    """

    call: Callable[..., Any]
    dtype: torch.dtype | None
    sha256: str


def with_arguments(network: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that hands the tensors of a condition to a network one by one, each as an argument of its own."""

    def call(*given: Tensor | Mapping[str, Tensor]) -> Any:
        return network(*(one for part in given for one in (part.values() if isinstance(part, Mapping) else (part,))))

    return call


def precision_of(network: Any) -> torch.dtype | None:
    """Return the precision that all floating weights of a module share; None for functions and for mixed precisions."""
    if not isinstance(network, torch.nn.Module):
        return None
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else None


def in_one_line(error: Exception) -> str:
    """Return the kind and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
