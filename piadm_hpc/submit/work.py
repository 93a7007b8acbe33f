"""The work of a job, and its end near the time limit."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from ..comm.rank_grid import rank_grid
from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..host.launcher import LauncherError, environment_mpiexec, launched, launcher_rank, local_environment
from ..host.slurm import requeue, this_job
from ..host.stop import StopReason, StopRequested, request_stop, stop_signals
from ..models.config import ConformerTrainConfig, TrainConfig
from ..models.training.fields import train
from ..models.training.molecules import train_conformers
from ..run.execute import SUMMARY_FILE, execute
from ..run.probe import probe_trained
from ..store.settings import to_toml

logger = logging.getLogger("piadm_hpc")

STOPPED, NOT_CONVERGED = 75, 3
LINGER = 3.0
RECORDS: dict[str, type[BaseModel]] = {record.__name__: record for record in (RunConfig, TrainConfig, ConformerTrainConfig)}
T = TypeVar("T")


def do(record: str, words: str, ranks: int, queues_again: bool) -> Any:
    """Do the run or the training that a job describes by the name of one of RECORDS and its JSON; submitit keeps the result."""
    config = RECORDS[record].model_validate_json(words)
    if isinstance(config, RunConfig):
        return _sample(config, ranks, queues_again)
    assert isinstance(config, TrainConfig | ConformerTrainConfig)
    return _train(config, queues_again)


def _sample(config: RunConfig, ranks: int, queues_again: bool) -> dict[str, Any]:
    """Sample on the ranks of a job: every task of srun is one of `ranks`.

    Without Slurm nothing has launched ranks, and mpiexec does.
    """
    if ranks > 1 and not launched():
        return _with_mpiexec(config, ranks, queues_again)
    return asdict(_until_stopped(lambda: execute(config, command="piadm submit"), queues_again))


def _with_mpiexec(config: RunConfig, ranks: int, queues_again: bool) -> dict[str, Any]:
    """Sample under this environment's mpiexec; signals are passed on through the stop file."""
    mpiexec = environment_mpiexec(Path(sys.prefix))
    if mpiexec is None:
        raise ConfigError(f"{ranks} ranks here need an mpiexec; install one (pip install mpich) or ask for one rank")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "job.toml"
    file.write_text(to_toml(config.model_dump(mode="json")), encoding="utf-8")
    command = [str(mpiexec), "-n", str(ranks), sys.executable, "-P", "-m", "piadm_hpc", "sample", str(file)]
    with stop_signals() as signals:
        process = subprocess.Popen(command, env=local_environment(ranks))
        announced = StopReason.NONE
        while process.poll() is None:
            if signals.reason > announced:
                announced = signals.reason
                request_stop(out, announced)
            time.sleep(0.05)
    if process.returncode == STOPPED:
        _leave(announced == StopReason.LIMIT and queues_again)
    if process.returncode not in (0, NOT_CONVERGED):
        raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}; its messages are in the job's log")
    return dict(json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8")))


def _train(config: TrainConfig | ConformerTrainConfig, queues_again: bool) -> str:
    """Train in one process, from the last checkpoint on."""

    def training() -> Path:
        with stop_signals() as signals:
            if isinstance(config, ConformerTrainConfig):
                return train_conformers(config, stop=lambda: signals.reason)
            return train(config, stop=lambda: signals.reason)

    folder = _until_stopped(training, queues_again)
    probe_trained(folder)
    return str(folder)


def _until_stopped(action: Callable[[], T], queues_again: bool) -> T:
    """Run `action` and return its result; after a request to stop, requeue the job or end with the exit code for a stop."""
    try:
        return action()
    except StopRequested as stop:
        logger.info("%s", stop)
        _leave(stop.limit and queues_again)
        raise
    except LauncherError:
        if launcher_rank() != 0:
            time.sleep(LINGER)  # the first rank to exit with an error ends the others: let rank 0 print its message
        raise


def _leave(again: bool) -> None:
    """Exit on every rank with the code for "call again", after rank 0 has requeued the job if it may."""
    local = os.environ.get("SUBMITIT_EXECUTOR") == "local"
    if again and not local:
        ranks = rank_grid()
        if ranks.root and this_job() and (problem := requeue(this_job())):
            logger.warning("the job could not be requeued (%s): submit it again, it continues from here", problem)
        ranks.world.barrier()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(_local_requeue_code() if again and local else STOPPED)


def _local_requeue_code() -> int:
    from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

    return int(LOCAL_REQUEUE_RETURN_CODE)
