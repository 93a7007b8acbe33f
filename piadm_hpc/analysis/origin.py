"""The origin of samples: model, seed, date and version, for the foot of a figure and the head of a page."""

from __future__ import annotations

from datetime import UTC, datetime

import xarray as xr


def origin(dataset: xr.Dataset, model: str) -> dict[str, str]:
    """Pairs of words that identify the samples of a run; those missing in its files are left out."""
    attrs = dataset.attrs
    version = str(attrs.get("piadm_version", ""))
    commit = str(attrs.get("git_commit", ""))[:10]
    found = {
        "model": model,
        "weights": str(attrs.get("model_sha256", ""))[:12],
        "seed": str(attrs.get("seed", "")),
        "drawn": str(attrs.get("date_created", "")),
        "piadm_hpc": f"{version} ({commit})" if version and commit else version,
        "looked at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {name: value for name, value in found.items() if value}


def origin_line(dataset: xr.Dataset, model: str) -> str:
    """The origin in one line, without the present time."""
    found = origin(dataset, model)
    return ", ".join(f"{name} {value}" for name, value in found.items() if name != "looked at")
