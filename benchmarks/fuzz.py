"""No input ends in a traceback: random configurations, small files and run folders given to the commands.

python benchmarks/fuzz.py

A try writes its input into an empty folder (benchmarks/inputs.py) and calls one command in a forked process. It fails when the
command raises, ends with an unknown exit code, cannot be interrupted, or ends its process. Every try can be repeated alone:
python benchmarks/fuzz.py --only folders/17
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import dask
import torch
from common import Report, at_least, at_most, parser
from inputs import GENERATORS
from stock import Stock, make_stock

from piadm_hpc.cli.exit_codes import BAD_CONFIGURATION, DONE, FAILED, NOT_CONVERGED, STOPPED
from piadm_hpc.cli.main import main as piadm

CODES = (DONE, FAILED, BAD_CONFIGURATION, NOT_CONVERGED, STOPPED)
INTERRUPTED = 8  # seconds of processor time after which a command is interrupted
TOO_LONG = 120  # seconds after which it hangs
ROOM = 8 * 2**30  # bytes of memory beyond those of the process as it begins
TRIES, QUICK_TRIES = 2000, 90
COLUMNS = ("input", "tries", *(f"exit {code}" for code in CODES), "failed", "seconds")


def _call(arguments: Sequence[object]) -> tuple[object, str]:
    """A command in this process: its exit code, or what it raised, and what it wrote."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code: object = piadm([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            code = traceback.format_exc()
    return code, out.getvalue()


def one_try(name: str, number: int, stock: Stock) -> dict[str, Any]:
    """Make the input of a try and call its command; return the outcome."""
    dice = Random(f"{name}/{number}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        arguments = GENERATORS[name](dice, place, stock)
        os.chdir(place)
        os.environ["HOME"] = folder
        signal.signal(signal.SIGPROF, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_PROF, INTERRUPTED)
        began = time.monotonic()
        code, text = _call(arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.chdir("/")
    # Python prints an exception raised inside a callback by an interruption, and continues
    clear = "Traceback" not in text or "Exception ignored in" in text
    wrong = "" if code in CODES and clear else f"{code}\n{text}"
    shown = " ".join(str(argument).replace(folder, "PLACE") for argument in arguments)
    seconds = time.monotonic() - began
    return {
        "try": f"{name}/{number}",
        "command": shown,
        "code": code if code in CODES else -1,
        "wrong": wrong,
        "seconds": seconds,
    }


def many_tries(tries: Sequence[tuple[str, int]], stock: Stock) -> list[dict[str, Any]]:
    """All tries in forked processes, since a damaged file may end a process; a new process continues after that try."""
    found: list[dict[str, Any]] = []
    while len(found) < len(tries):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            limit_memory()
            dask.config.set(scheduler="synchronous")  # threads of the parent's pool are not there after a fork
            with os.fdopen(writing, "w") as results:
                for name, number in tries[len(found) :]:
                    results.write(json.dumps(one_try(name, number, stock)) + "\n")
                    results.flush()
            os._exit(0)
        os.close(writing)
        before = len(found)
        with os.fdopen(reading) as results:
            found += _lines_in_time(child, results)
        status = os.waitpid(child, 0)[1]
        if status and len(found) < len(tries):
            name, number = tries[len(found)]
            end = f"the process ended with status {status}" + ("" if len(found) > before else " at once")
            found.append({"try": f"{name}/{number}", "command": "", "code": -1, "wrong": end, "seconds": 0.0})
    return found


def _lines_in_time(child: int, results: Any) -> list[dict[str, Any]]:
    """The lines of a child; it is killed when none comes for TOO_LONG seconds."""
    found = []

    def kill(*_: object) -> None:
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.alarm(TOO_LONG)
    for line in results:
        signal.alarm(TOO_LONG)
        found.append(json.loads(line))
    signal.alarm(0)
    return found


def limit_memory() -> None:
    """A configuration may request any amount of memory; this process may take ROOM bytes more than it has."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))


def main() -> int:
    """Make the tries, and print those that failed with the commands that repeat them."""
    asked = parser(__doc__ or "")
    asked.add_argument("--tries", type=int, default=TRIES, help="number of tries, shared among the kinds of input")
    asked.add_argument("--only", metavar="KIND/NUMBER", help="one try alone")
    options = asked.parse_args()
    number = QUICK_TRIES if options.quick else options.tries
    kinds = list(GENERATORS)
    tries = [(kinds[k % len(kinds)], k // len(kinds)) for k in range(number)]
    if options.only:
        name, _, which = options.only.partition("/")
        tries = [(name, int(which))]
    torch.set_num_threads(1)
    report = Report("fuzz")
    with tempfile.TemporaryDirectory() as folder:
        found = many_tries(tries, make_stock(Path(folder)))
    rows = []
    for name in kinds:
        mine = [result for result in found if result["try"].startswith(f"{name}/")]
        codes = Counter(result["code"] for result in mine if not result["wrong"])
        failed = sum(bool(result["wrong"]) for result in mine)
        rows.append([name, len(mine), *(codes[code] for code in CODES), failed, sum(result["seconds"] for result in mine)])
    for result in found:
        if result["wrong"] or options.only:
            print(f"{result['try']}: piadm {result['command']}\n{result['wrong'] or result['code']}\n")
    report.add("Tries", COLUMNS, rows)
    report.aims += [at_most("tries that end in anything but a message", sum(row[-2] for row in rows), 0)]
    if not options.only:
        report.aims.append(at_least("tries", len(found), number))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
