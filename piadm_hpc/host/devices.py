"""The devices of this host on which networks can run."""

from __future__ import annotations


def device_names() -> list[str]:
    """Return the names of the devices of this host: cpu, and the GPUs that torch sees."""
    import torch  # imported late, because commands that compute nothing read this room too

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *["cuda"] * (count > 0), *(f"cuda:{index}" for index in range(count))]


def require_device(given: str, key: str) -> str:
    """Return the name of a device that was given under `key`; ValueError unless this host has it."""
    there = device_names()
    if given not in there:
        raise ValueError(f"{key}: no {given!r} on this host; give {', '.join(there)}")
    return given
