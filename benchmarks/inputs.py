"""Inputs that a user might give to the commands by mistake or on purpose, for benchmarks/fuzz.py.

A generator writes files into an empty folder and returns the arguments of `piadm`; GENERATORS names them all.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import tomli_w
from given import analyses, conditions, fields, observations
from harm import harm_folder, harmed
from stock import Stock

from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.templates import KINDS, template
from piadm_hpc.integrators.catalogue import INTEGRATORS

Arguments = list[object]
Generator = Callable[[Random, Path, Stock], Arguments]


# configurations

ODD_NUMBERS = [0, -1, 1, 2, 3, 0.5, 1e-12, -0.0, 1e30, 10**30, -(10**30), 2**31, 2**63, math.inf, math.nan, 1e-300]
# no path here leaves the folder of a try, which is its home
ODD_TEXTS = ["", " ", "auto", "none", "\n", "\x00", "a\nb", "$HOME", "$NOT_SET", "~", "~nobody", ".", "é" * 300, "x:y", "-1"]
ODD_TEXTS += ["os:getcwd", "/dev/null", "/proc/self/mem", "a.b:c", "{}", "[", "%s", "1e3", "True", "\u2028", "./" * 50]
ODD_VALUES: list[Any] = [*ODD_NUMBERS, *ODD_TEXTS, True, False, [], {}, [[]], [1, 1], [-1], {"a": {"b": 1}}, ["x", 2]]
ODD_VALUES += [list(range(50))]

PLAUSIBLE: list[tuple[str, Any]] = [
    *(("chain.integrator", name) for name in INTEGRATORS),
    *(("chain.eta", value) for value in (0, 0.5, 1, "auto")),
    *(("chain.lam", value) for value in (-1, 0.3, "best")),
    *(("chain.score_time", value) for value in ("now", "middle", "next", "ahead")),
    *(("grid.kind", value) for value in ("piadm", "log-snr", "karras", "power")),
    *(("grid.steps", value) for value in (1, 2, 3, 7, 20)),
    *(("grid.calls", value) for value in (1, 2, 5, 12)),
    *(("grid.blocks", value) for value in (1, 2, 3, 9)),
    *(("grid.step", value) for value in (0.01, 0.5, 100.0)),
    *(("grid.horizon", value) for value in (1e-3, 1.0, 100.0)),
    *(("grid.delta", value) for value in (1e-9, 1e-3, 1.0)),
    *(("grid.teleport", value) for value in (1e-6, 1.0, 1e6)),
    *(("grid.cut", value) for value in ("even", "lambda")),
    *(("solver.kind", value) for value in ("sequential", "paradigms", "anderson", "newton", "parareal", "chords")),
    *(("solver.linear", value) for value in ("identity", "process", "denoised", "reference", "response")),
    *(("solver.start", value) for value in ("constant", "reference")),
    *(("solver.tol", value) for value in (1e-30, 1e-4, 1e30)),
    *(("solver.sweeps", value) for value in (1, 2, 50)),
    *(("solver.window", value) for value in (1, 2, 50)),
    *(("solver.parts", value) for value in (1, 2, 4)),
    *((f"solver.{name}", True) for name in ("fixed_depth", "pipelined")),
    *(("corrector.enabled", value) for value in (True, False)),
    *(("corrector.steps", value) for value in (1, 3)),
    *(("compute.precision", value) for value in ("float32", "float64")),
    *(("compute.in_flight", value) for value in (1, 2)),
    *(("compute.model_batch", value) for value in (1, 3)),
    *(("compute.autocast", value) for value in ("off", "bfloat16")),
    *(("output.batch", value) for value in (1, 3)),
    *(("output.compression", value) for value in ("zlib", "none")),
    *(("samples", value) for value in (1, 5)),
    *(("only", value) for value in ([0], [3, 1], [2**31 - 1], list(range(9)))),
    *(("phase.gamma", value) for value in (0.0, 1.0)),
    *(("density.enabled", value) for value in (True, False)),
    *(("density.traces", value) for value in ("exact", 2, 1)),
    *(("rollout.leads", value) for value in (1, 2)),
    *(("condition.guidance", value) for value in (0.0, 2.0)),
]
"""Values that plausibly belong together."""


def configurations(dice: Random, place: Path, stock: Stock) -> Arguments:
    """A run.toml some of whose keys hold odd values, or an odd option on the command line."""
    values = stock.configuration("out")
    keys = _keys(RunConfig(model="m").model_dump())
    for _ in range(dice.choice([0, 1, 2, 3])):
        _put(values, *dice.choice(PLAUSIBLE))
    for _ in range(dice.choice([0, 0, 0, 1, 1, 2])):
        _put(values, dice.choice(keys), dice.choice(ODD_VALUES))
    with contextlib.suppress(AttributeError, TypeError):  # sections may have become values
        if dice.random() < 0.1:
            _put(values, dice.choice(["solver.tol.x", "extra", "grid", "chain.churn", ""]), dice.choice(ODD_VALUES))
    path = place / "run.toml"
    try:
        path.write_text(tomli_w.dumps(values), errors="surrogateescape")
    except (ValueError, TypeError):
        path.write_text("model = 1")
    more: Arguments = []
    if dice.random() < 0.4:
        more += ["--set", f"{dice.choice([*keys, 'x', '', 'solver'])}={dice.choice(ODD_VALUES)}".replace("\0", "\\0")]
    if dice.random() < 0.3:
        options = ["--samples", "--only", "--seed", "--tol", "--time-ranks", "--model-batch", "--out", "--device"]
        more += [f"{dice.choice(options)}={dice.choice(ODD_VALUES)}".replace("\0", "0")]
    command = dice.choice(
        [["check"], ["plan"], ["sample"], ["sample"], ["sample", "--plan"], ["submit", "--print", "--mpi=none"]]
    )
    if command == ["check"]:
        return ["check", path]
    if command[0] == "submit" and dice.random() < 0.7:
        numbers = ["--nodes", "--hours", "--grace", "--name", "--sbatch", "--setup", "--array", "--mpi", "--parallel", "--chain"]
        more += [f"{dice.choice(numbers)}={dice.choice([*ODD_VALUES, 'seed=0-3', 'account=x'])}".replace("\0", "0")]
    return [command[0], path, *command[1:], *more]


def _keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found.append(prefix + key)
        if isinstance(value, dict):
            found += _keys(value, f"{prefix}{key}.")
    return found


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            return
    values[last] = value


# small files


def files(dice: Random, place: Path, stock: Stock) -> Arguments:
    """A file of text or bytes where a configuration, a run or a model is expected."""
    name = dice.choice(["run.toml", "train.toml", "samples.h5", "x", "card.toml", "adapter.toml"])
    path = place / name
    text = template(dice.choice(sorted(KINDS)))
    kind = dice.randrange(7)
    if kind == 0:
        path.write_bytes(dice.randbytes(dice.choice([0, 1, 7, 300, 5000])))
    elif kind == 1:
        path.write_bytes(harmed(dice, text.encode()))
    elif kind == 2:
        lines = text.splitlines()
        dice.shuffle(lines)
        path.write_text("\n".join(lines[: dice.randrange(len(lines) + 1)]))
    elif kind == 3:
        path.write_text(dice.choice(["a = " + "[" * 3000, "[" * 3000, "a." * 2000 + "b = 1", "\ufeff" + text, "x = 1\n" * 50]))
    elif kind == 4:
        path.mkdir()
    elif kind == 5:
        path.symlink_to(dice.choice([path, Path("/dev/null"), place, Path("nowhere")]))
    else:
        shutil.copy(stock.folder / "fields.nc", path)
        path.write_bytes(harmed(dice, path.read_bytes()))
    return dice.choice(
        [
            ["check", path], ["check", path, "--deep"], ["sample", path], ["plan", path], ["join", path], ["status", path],
            ["train", path], ["report", path], ["verify", path], ["export", path, "--to", place / "e"], ["join", place],
            ["submit", path, "--print"], ["sample", "--model", path, "--out", place / "o"], ["plan", "--model", place],
            ["reference", path], ["compare", path], ["tune", path], ["check", place],
        ]
    )  # fmt: skip


# run folders


def folders(dice: Random, place: Path, stock: Stock) -> Arguments:
    """A finished run in which one to three files were lost, damaged, exchanged or rewritten."""
    out = place / "run"
    shutil.copytree(stock.run, out)
    for _ in range(dice.choice([1, 1, 2, 3])):
        harm_folder(dice, out, stock)
    config = place / "run.toml"
    config.write_text(tomli_w.dumps(stock.configuration(out, seed=dice.choice([0, 0, 0, 1]))))
    shard = out / "shards/samples_00000000_00000002.h5"
    return dice.choice(
        [
            ["check", out], ["check", out, "--deep"], ["check", shard, "--deep"], ["join", out], ["join", out, "--copy"],
            ["status", out], ["sample", config], ["sample", config, "--samples=6"], ["sample", config, "--overwrite"],
            ["sample", config], ["join", out, "--copy", "--to", place / "one.h5"], ["report", out],
            ["submit", config, "--print", "--mpi=none"], ["sample", out / "run.toml"], ["check", out / "run.toml"],
        ]
    )  # fmt: skip


GENERATORS: dict[str, Generator] = {
    "configurations": configurations,
    "files": files,
    "folders": folders,
    "fields": fields,
    "conditions": conditions,
    "observations": observations,
    "analyses": analyses,
}
