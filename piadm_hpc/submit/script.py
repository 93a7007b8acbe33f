"""A job as one batch script that needs only this package: to read, to keep, or to adapt to PBS or LSF."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..store.settings import to_toml
from .request import JobRequest

RUN = """\
# the run looks for this file after every sweep, on all nodes; it is renamed, so that nobody reads half of it
trap 'echo LIMIT > "$RUN/.STOP" && mv "$RUN/.STOP" "$RUN/STOP"' USR1
srun {srun} {python} -P -m piadm_hpc sample "$RUN/job.toml" --out "$RUN" &
pid=$!
while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done   # a signal interrupts wait, not the run
rc=0
wait "$pid" || rc=$?
"""

AGAIN = """\
if [ "$rc" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
"""


def batch_script(configs: Sequence[RunConfig], request: JobRequest) -> str:
    """Write a batch script for a run, or for several as an array, with the configurations inside it.

    Raises ConfigError for an output folder that cannot be named in a batch script.
    """
    for config in configs:
        require_one_line(config.out)
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}{value}" for name, value in _directives(configs, request))]
    lines += ["set -euo pipefail", *request.setup]
    lines += ["export " + " ".join(f"{name}={value}" for name, value in request.environment.items()), ""]
    lines += _choice(configs) if len(configs) > 1 else _configuration(configs[0])
    python, srun = shlex.quote(sys.executable), " ".join(request.srun_arguments())
    text = "\n".join(lines) + "\n" + RUN.format(srun=srun, python=python)
    return text + (AGAIN if request.queues_again else "") + 'exit "$rc"\n'


def _directives(configs: Sequence[RunConfig], request: JobRequest) -> list[tuple[str, str]]:
    hours, minutes = divmod(request.minutes, 60)
    found = [
        ("job-name", f"={request.name}"),
        ("nodes", f"={request.nodes}"),
        ("ntasks-per-node", f"={request.tasks_per_node}"),
        ("cpus-per-task", f"={request.cpus_per_rank}"),
        *([("gpus-per-node", f"={request.gpus_per_node}")] if request.gpus_per_node else []),
        ("time", f"={hours:02d}:{minutes:02d}:00"),
        ("signal", f"=B:USR1@{request.grace}"),
        ("requeue" if request.queues_again else "no-requeue", ""),
        ("open-mode", "=append"),
        ("output", "=%x-%A_%a.log" if len(configs) > 1 else "=%x-%j.log"),
        *((name, f"={value}" if value else "") for name, value in request.options.items()),
    ]
    found = [(name, _quoted(value)) for name, value in found]
    return found + ([("array", f"=0-{len(configs) - 1}%{request.parallel}")] if len(configs) > 1 else [])


def _quoted(value: str) -> str:
    """An option's value, quoted for sbatch: one with spaces would otherwise end at the first space."""
    return f"={shlex.quote(value[1:])}" if value else value


def require_one_line(out: str) -> None:
    """Raise ConfigError for a folder whose name would add lines to a batch script."""
    if not out.isprintable():
        raise ConfigError(f"out: {out!r} holds a line break or another control character; a batch script cannot name it")


def _configuration(config: RunConfig, indent: str = "") -> list[str]:
    out = str(Path(config.out).absolute())
    text = to_toml(config.model_dump(mode="json", exclude={"out"}))
    lines = [f"{indent}RUN={shlex.quote(out)}", f'{indent}mkdir -p "$RUN"', f"{indent}cat > \"$RUN/job.toml\" <<'END'"]
    return [*lines, *text.rstrip().splitlines(), "END", ""]


def _choice(configs: Sequence[RunConfig]) -> list[str]:
    lines = ['case "$SLURM_ARRAY_TASK_ID" in']
    for number, config in enumerate(configs):
        lines += [f"{number})", *_configuration(config, "    ")[:-1], "    ;;"]
    return [*lines, "esac", ""]
