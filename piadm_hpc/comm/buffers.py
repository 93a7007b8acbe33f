"""Memory that messages travel from and to: the host's, pinned host memory beside a GPU, or the GPU's own."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

Memory = Literal["host", "pinned", "device"]


def memory_for(device: torch.device, *, aware: bool) -> Memory:
    """From where a tensor on a device travels: a GPU's from where it lies if MPI is CUDA-aware, else by way of pinned memory."""
    if device.type != "cuda":
        return "host"
    return "device" if aware else "pinned"


@cache
def cuda_aware(library: str) -> bool:
    """Whether an MPI library takes pointers to a GPU's memory, by the query that Open MPI and the MPICH family share."""
    query = getattr(ctypes.CDLL(library), "MPIX_Query_cuda_support", None)
    return query is not None and bool(query())


@dataclass(frozen=True)
class Buffers:
    """Buffers of messages that belong to tensors on `device`, and what mpi4py is given of them."""

    memory: Memory
    device: torch.device

    def sent(self, values: Tensor) -> Tensor:
        """What to send of a tensor: contiguous, since other layouts are sent permuted."""
        _require_exchangeable(values.dtype)
        values = values.detach()
        if self.memory == "pinned":
            return self.empty(values.shape, values.dtype).copy_(values)
        return values.contiguous() if self.memory == "device" else values.cpu().contiguous()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor to receive into."""
        _require_exchangeable(dtype)
        if self.memory == "device":
            return torch.empty(shape, dtype=dtype, device=self.device)
        return torch.empty(shape, dtype=dtype, pin_memory=self.memory == "pinned")

    def ready(self, *tensors: Tensor) -> list[Any]:
        """What mpi4py takes of tensors, now that nothing queued on the GPU still writes to them or to what they replaced."""
        if self.memory == "device":
            torch.cuda.current_stream(self.device).synchronize()
            return list(tensors)
        return [tensor.numpy() for tensor in tensors]


def _require_exchangeable(dtype: torch.dtype) -> None:
    """TypeError for numbers that MPI has no arithmetic for."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"cannot exchange {dtype}; states and sums are float32 or float64 whatever the network uses")
