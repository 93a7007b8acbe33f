"""The memory from which MPI sends tensors: chosen for a GPU without having one, and checked with tensors of the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from piadm_hpc.comm.buffers import Buffers, Memory, cuda_aware, memory_for

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("device", "aware", "memory"),
    [
        (CPU, False, "host"),
        (CPU, True, "host"),
        (GPU, True, "device"),
        (GPU, False, "pinned"),
        (torch.device("mps"), True, "host"),
    ],
)
def test_a_gpu_is_reached_directly_only_by_an_mpi_that_can(device: torch.device, aware: bool, memory: Memory) -> None:
    assert memory_for(device, aware=aware) == memory


def test_host_tensors_travel_from_where_they_lie() -> None:
    buffers, values = Buffers("host", CPU), torch.arange(6.0)
    sent = buffers.sent(values)
    (given,) = buffers.ready(sent)
    assert sent.data_ptr() == values.data_ptr() and given.ctypes.data == values.data_ptr()
    turned = buffers.sent(values.reshape(2, 3).T)
    assert turned.is_contiguous() and turned.tolist() == values.reshape(2, 3).T.tolist()


def test_pinned_memory_is_asked_for_and_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host may have no GPU, without which memory cannot be pinned: the request is seen, and granted as plain memory."""
    asked, plain = [], torch.empty

    def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        asked.append(pin_memory)
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", empty)
    buffers, values = Buffers("pinned", GPU), torch.arange(6.0).reshape(2, 3).T
    sent, result = buffers.sent(values), buffers.empty((3, 2), torch.float64)
    assert asked == [True, True] and sent.is_contiguous() and torch.equal(sent, values) and result.dtype == torch.float64


def test_a_device_is_waited_for_before_mpi_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    class Stream:
        def synchronize(self) -> None:
            waited.append(True)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    values = torch.ones(3)
    assert Buffers("device", GPU).ready(values)[0] is values and waited == [True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_numbers_without_mpi_arithmetic_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="float32 or float64"):
        Buffers("host", CPU).sent(torch.zeros(2, dtype=dtype))
    with pytest.raises(TypeError, match="float32 or float64"):
        Buffers("host", CPU).empty((2,), dtype)


def test_a_library_without_the_query_is_not_cuda_aware() -> None:
    assert not cuda_aware(torch._C.__file__)
