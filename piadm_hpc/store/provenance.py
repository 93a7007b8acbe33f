"""The origin of a file: the global attributes that are stored in it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .settings import as_json

REFERENCES = (
    "H. Chen, Y. Ren, L. Ying, G. M. Rotskoff: Accelerating Diffusion Models with Parallel Sampling: Inference at "
    "Sub-Linear Time Complexity. NeurIPS 2024, arXiv:2405.15986"
)
PACKAGES = ("torch", "numpy", "h5py", "mpi4py")


def global_attributes(
    config: Mapping[str, Any], *, model_sha256: str, title: str, source: str, seed: int, command: str
) -> dict[str, Any]:
    """The global attributes of a run after CF 1.11 and ACDD 1.3: where, when, how and with which versions it was drawn.

    `config` is stored as JSON; `command` is the command line. Packages that are not installed are left out.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    attributes: dict[str, Any] = {
        "Conventions": "CF-1.11 ACDD-1.3",
        "title": title,
        "source": source,
        "history": f"{now} {command}",
        "references": REFERENCES,
        "date_created": now,
        "seed": seed,
        "model_sha256": model_sha256,
        "piadm_config": as_json(config),
        "piadm_version": _version("piadm_hpc") or "not installed",
        "host": socket.gethostname(),
    }
    attributes |= {f"{package}_version": found for package in PACKAGES if (found := _version(package))}
    if commit := _git_commit():
        attributes["git_commit"] = commit
    if job := os.environ.get("SLURM_JOB_ID"):
        attributes["slurm_job_id"] = job
    return attributes


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of a source checkout of this package; None for an installed one, also inside another repository."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
