"""The choices that a run leaves open: steps, sweeps or a window over the same chain, time ranks, and batches.

`piadm plan` and `piadm sample` choose by the same function, from the ranks, the samples to draw, a few timed calls of the
network and the expected number of calls. The samples are the same within the tolerance whatever is chosen.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..comm.communicator import Communicator
from ..comm.timing import Network
from ..config.run import INDEPENDENT_KEYS
from ..config.validation import without_none
from ..host.launcher import ranks_here
from ..store.settings import as_json, differences_of_json, run_config
from .calls import CallTimes, time_calls
from .resolve import ResolvedRun, count_time_ranks
from .ways import Ways

CHOSEN = ("kind", "window", "alternate", "sweeps")  # keys of the section `solver` that a run chooses at its beginning and keeps
# calls whose time grows with their rows, as on a processor, and calls that take as long for any number of rows
EXTREMES = CallTimes((1,), (1.0,)), CallTimes((1, 2**30), (1.0, 1.0))


@dataclass(frozen=True)
class Choice:
    """The choice: the run with nothing left open, the ranks that share a sample, and one line that describes it.

    The line is empty if nothing was open.
    """

    resolved: ResolvedRun
    time_ranks: int
    text: str = ""


def choose(resolved: ResolvedRun, comm: Communicator, *, ranks: int, threads: int, network: Network | None = None) -> Choice:
    """Make the choices that the configuration of a run leaves open, for `ranks` ranks of `threads` threads; collective.

    Calls are timed on all ranks of `comm`, and the first rank decides for all. No call is timed where the choice would be the
    same for calls of any duration.
    """
    config = resolved.config
    if not (config.solver.free or "auto" in (config.compute.model_batch, config.output.batch)):
        return Choice(resolved, count_time_ranks(config, ranks))
    turns = 1.0 if comm.size == 1 else max(1.0, ranks_here() * threads / len(os.sched_getaffinity(0)))
    ways = Ways(resolved, ranks, network or Network(), turns)
    times = None
    if comm.bcast_object(turns > 1 or not _certain(ways)):
        times = time_calls(resolved.timed, comm, lambda known: ways.fastest(known).seconds, ways.most_rows)
    # ranks on different processors may round differently, but must make the same choice
    settings, time_ranks, text = comm.bcast_object(_decided(ways, times))
    return Choice(resolved.with_settings(settings), time_ranks, text)


def _certain(ways: Ways) -> bool:
    """Whether the choice is the same for calls of any duration."""
    one, other = (ways.fastest(times).way for times in EXTREMES)
    return one == other and ways.rows_are_few


def _decided(ways: Ways, times: CallTimes | None) -> tuple[dict[str, dict[str, object]], int, str]:
    """The settings that were left open, the ranks that share a sample, and the line for the log."""
    config, known = ways.resolved.config, times or EXTREMES[0]
    best, rows = ways.fastest(known), ways.rows_of_a_call(known)
    settings: dict[str, dict[str, object]] = {}
    if config.solver.free:
        way, sweeps = best.way, ways.most_sweeps(best, known)
        settings["solver"] = {"kind": way.kind, "window": way.window, "alternate": way.alternate, "sweeps": sweeps}
    if config.compute.model_batch == "auto":
        settings["compute"] = {"model_batch": rows}
    if config.output.batch == "auto":
        settings["output"] = {"batch": best.batch}
    words = "collocation" if ways.resolved.scheme.sequential_rounds is None else str(best.way)
    text = f"auto: {words}, {best.batch} sample(s) a batch, {rows} row(s) a call"
    if times is not None:
        text += f"; about {best.seconds:.2g} s, {1e3 * times.seconds[0] * times.crowding:.2g} ms a call"
        other = ways.alternative(times, best.way)
        text += "" if other is None else f" ({other.way}: {other.seconds:.2g} s)"
    return settings, best.way.time_ranks, text


def solver_of_run(resolved: ResolvedRun) -> dict[str, object] | None:
    """The solver that was chosen when the same run was begun in its folder; None for another or a new run.

    All samples of a run are drawn in one way, whatever the number of ranks on which it continues.
    """
    config = resolved.config
    if not config.solver.free:
        return None
    there, here = run_config(Path(config.out)), as_json(without_none(config.model_dump(mode="json")))
    if not there or differences_of_json(there, here, INDEPENDENT_KEYS | {f"solver.{key}" for key in CHOSEN}):
        return None
    begun = json.loads(there)["solver"]
    return {key: begun[key] for key in CHOSEN if key in begun} if begun.get("kind") in ("sequential", "picard") else None
