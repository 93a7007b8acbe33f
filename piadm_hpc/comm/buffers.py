"""Buffers for messages: in host memory, in pinned host memory for tensors of a GPU, or in the GPU's memory itself."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

Memory = Literal["host", "pinned", "device"]


def memory_for(device: torch.device, *, aware: bool) -> Memory:
    """Choose the memory for messages of a tensor on `device`: that of a GPU itself only where MPI is CUDA-aware."""
    if device.type != "cuda":
        return "host"
    return "device" if aware else "pinned"


@cache
def cuda_aware(library: str) -> bool:
    """Whether an MPI library accepts pointers to GPU memory, by the query that Open MPI and MPICH have in common."""
    query = getattr(ctypes.CDLL(library), "MPIX_Query_cuda_support", None)
    return query is not None and bool(query())


@dataclass(frozen=True)
class Buffers:
    """Message buffers for tensors on `device`, in a given kind of memory."""

    memory: Memory
    device: torch.device

    def sent(self, values: Tensor) -> Tensor:
        """Return the values as a contiguous tensor to send; mpi4py would send another layout in permuted order."""
        _require_exchangeable(values.dtype)
        values = values.detach()
        if self.memory == "pinned":
            return self.empty(values.shape, values.dtype).copy_(values)
        return values.contiguous() if self.memory == "device" else values.cpu().contiguous()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate a tensor to receive into."""
        _require_exchangeable(dtype)
        if self.memory == "device":
            return torch.empty(shape, dtype=dtype, device=self.device)
        return torch.empty(shape, dtype=dtype, pin_memory=self.memory == "pinned")

    def ready(self, *tensors: Tensor) -> list[Any]:
        """Return the tensors in a form that mpi4py accepts, after waiting for queued GPU work that may still use them."""
        if self.memory == "device":
            torch.cuda.current_stream(self.device).synchronize()
            return list(tensors)
        return [tensor.numpy() for tensor in tensors]


def _require_exchangeable(dtype: torch.dtype) -> None:
    """TypeError for number formats that MPI cannot add or compare."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"cannot exchange {dtype}; states and sums are float32 or float64 whatever the network uses")
