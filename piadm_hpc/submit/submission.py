"""Submitting jobs: each submission has its own folder and a record beside the run, and returns a handle to its jobs."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..models.config import ConformerTrainConfig, TrainConfig
from ..run.conditions import require_conditions
from ..store.reading import open_run
from ..store.settings import to_toml
from ..store.statistics.reading import counts_only, open_statistics
from .errors import SubmissionError
from .executors import POLL_SECONDS, make_executor, refusals, resolve, safe_path, watched
from .ledger import JOBS, enter, require_free
from .payload import Job
from .request import JobRequest
from .script import require_one_line

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Submission:
    """Submitted jobs: one for each run of `outs`, or a chain of several for one. `folder` holds their logs and results."""

    folder: Path
    cluster: str
    outs: tuple[Path, ...]
    jobs: tuple[Any, ...]

    def __str__(self) -> str:
        names = ", ".join(str(job.job_id) for job in self.jobs)
        return f"{self.cluster} job {names}; logs in {self.folder}"

    def wait(self, *, poll: float = POLL_SECONDS) -> bool:
        """Wait until no job is queued or running; true when all of them returned a result."""
        waiting = list(self.jobs)
        while waiting := [job for job in waiting if not job.done()]:
            time.sleep(poll)
        return all(job.exception() is None for job in self.jobs)

    def result(self) -> xr.Dataset:
        """Wait, then open the samples of one run. Raises the error that ended its job; for an array, use `results`."""
        if len(self.outs) > 1:
            raise ValueError(f"this submission has {len(self.outs)} runs; `results` opens all of them")
        return self.results()[0]

    def results(self) -> list[xr.Dataset]:
        """Wait, then open the samples of every run, or its statistics alone. Raises the error that ended the last job."""
        self.wait()
        self.jobs[-1].result()
        return [open_statistics(out) if counts_only(out) else open_run(out) for out in self.outs]


def submit(config: RunConfig | Sequence[RunConfig], request: JobRequest | None = None, **numbers: Any) -> Submission:
    """Submit a run, or several as an array; `numbers` are the fields of a JobRequest, instead of `request`.

    Raises ConfigError when an earlier job still works on a folder, when "slurm" is asked for where there is none, for
    mistakes in the request, and for conditions that are missing or do not fit the model; SubmissionError when sbatch refuses a
    job, with what it said and the jobs of a chain that were queued before.
    """
    configs = [config] if isinstance(config, RunConfig) else list(config)
    request = request or JobRequest(**numbers)
    configs = [each.replace(out=str(Path(each.out).absolute())) for each in configs]
    outs = [Path(each.out) for each in configs]
    if not outs or len(set(outs)) != len(outs):
        raise ConfigError("every run of an array needs an `out` of its own")
    require_conditions(configs)
    folder = _prepare(outs, configs)
    jobs = [Job.of(each, request.ranks, request.queues_again) for each in configs]
    return _send(folder, outs, jobs, request)


def submit_training(config: TrainConfig | ConformerTrainConfig, request: JobRequest | None = None, **numbers: Any) -> Submission:
    """Submit a training, which takes one rank. Raises ConfigError as `submit` does."""
    request = request or JobRequest(**numbers)
    if request.ranks > 1:
        raise ConfigError(f"a training takes one rank, not {request.ranks}; give it more cores with cpus_per_rank")
    output = Path(config.output).absolute()
    config = config.model_copy(update={"output": str(output)})
    place = output.with_name(f"{output.name}.training")
    folder = _prepare([place], [config])
    return _send(folder, [place], [Job.of(config, queues_again=request.queues_again)], request)


def _prepare(outs: Sequence[Path], configs: Sequence[BaseModel]) -> Path:
    """Make the folder of a submission, with the configurations in it, for its owner alone.

    submitit keeps its jobs there as pickles: whoever may write to them could run code in the owner's name.
    """
    for out in outs:
        require_one_line(str(out))
        require_free(out)
    root = outs[0] if len(outs) == 1 else Path(os.path.commonpath(outs))
    folder = root / JOBS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)  # also where an access control list gives more
    for number, config in enumerate(configs):
        text = to_toml(config.model_dump(mode="json"))
        (folder / f"run-{number}.toml").write_text(text, encoding="utf-8")
    return folder


def _send(folder: Path, outs: Sequence[Path], jobs: Sequence[Any], request: JobRequest) -> Submission:
    cluster = resolve(request.cluster)
    sent: list[Any] = []
    links = request.chain if cluster == "slurm" else 1
    for link in range(links):
        before = f"afterany:{':'.join(_numbers(sent[-len(jobs) :]))}" if sent else None
        executor = make_executor(cluster, folder, request, dependency=before)
        try:
            with safe_path(), refusals():
                sent += executor.submit_array(list(jobs)) if len(jobs) > 1 else [executor.submit(jobs[0])]
        except SubmissionError as refusal:
            # jobs that are queued already belong in the ledger: status and later submissions must know of them
            if sent:
                _recorded(Submission(folder, cluster, tuple(outs), tuple(watched(sent, cluster))))
            raise SubmissionError(f"{refusal}{_left_queued(_numbers(sent), link, links)}") from refusal
    return _recorded(Submission(folder, cluster, tuple(outs), tuple(watched(sent, cluster))))


def _numbers(jobs: Sequence[Any]) -> list[str]:
    """The numbers of jobs for scancel and dependencies, where an array is one."""
    return sorted({job.job_id.partition("_")[0] for job in jobs})


def _left_queued(numbers: Sequence[str], link: int, links: int) -> str:
    """Name the jobs of a chain that were queued before one was refused, and how to cancel them."""
    if not numbers:
        return "; nothing was queued"
    return (
        f"; this was job {link + 1} of a chain of {links}, and job {', '.join(numbers)} remains queued, as a shorter chain: "
        f"keep it, or cancel it with scancel {' '.join(numbers)}"
    )


def _recorded(submission: Submission) -> Submission:
    """Enter a submission in the ledgers of its runs, and of the folder that contains them."""
    for out in {*submission.outs, submission.folder.parent.parent}:
        _record(out, submission)
    return submission


def _record(out: Path, submission: Submission) -> None:
    """Enter the jobs of a run in the ledger of its folder."""
    chain = len(submission.jobs) // len(submission.outs)
    per_out = [[str(job.job_id) for job in submission.jobs[k :: len(submission.outs)]] for k in range(len(submission.outs))]
    mine = {str(o): names for o, names in zip(submission.outs, per_out, strict=True) if out in (o, *o.parents)}
    line = {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cluster": submission.cluster,
        "folder": str(submission.folder),
        "chain": chain,
        "jobs": mine,
    }
    enter(out, line)
