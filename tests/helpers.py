"""Small models and runs for the tests of the commands, and several commands in one MPI launch, with or without a fault.

`mpiexec -n N python tests/helpers.py SCRIPT.json` runs the commands of a script one after the other on the same ranks, since
starting a process with torch takes seconds and a command milliseconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tomli_w
import torch
import xarray as xr
from launching import launch

from piadm_hpc.cli import main as cli
from piadm_hpc.data.normalise import Normalisation
from piadm_hpc.host.launcher import launcher_rank
from piadm_hpc.models.card import Model, load_model, save_model
from piadm_hpc.models.config import NetworkConfig, TrainConfig
from piadm_hpc.models.networks.unet import GridUNet, latitudes_from
from piadm_hpc.models.record import read_card
from piadm_hpc.models.training.fields import train
from piadm_hpc.run import execute as running

PIADM = str(Path(sys.prefix) / "bin" / "piadm")
SHAPE = (8, 16)
STEPS = 12
# no setting is left to be chosen by timing: the choice would differ from one run of the tests to the next
RUN = {
    "samples": 6,
    "grid": {"steps": STEPS},
    "solver": {"kind": "picard", "tol": 1e-5},
    "compute": {"model_batch": 16},
    "output": {"batch": 2},
}


def write_fields(path: Path, count: int = 60) -> None:
    """Write temperatures with one strong wave of random amplitude and sign."""
    generator = np.random.default_rng(0)
    lat, lon = np.linspace(70, -70, SHAPE[0]), np.arange(SHAPE[1]) * 22.5
    wave = np.cos(np.deg2rad(2 * lon)) * np.cos(np.deg2rad(lat))[:, None]
    fields = 280 + 4 * generator.normal(size=(count, 1, 1)) * wave + 0.5 * generator.normal(size=(count, *SHAPE))
    variable = (("time", "lat", "lon"), fields.astype(np.float32), {"units": "K"})
    xr.Dataset({"tas": variable}, {"time": np.arange(count), "lat": lat, "lon": lon}).to_netcdf(path)


def make_model(folder: Path, **sections: Any) -> Path:
    """Train a Gaussian model of 8 x 16 fields in `folder`/gaussian, with further sections of its training record."""
    write_fields(folder / "fields.nc")
    data = {"files": ["fields.nc"], "variables": ["tas"], "scale": "global"}
    record = {"name": "gaussian", "output": str(folder / "gaussian"), "network": "none", "data": data, "reference": {"rank": 4}}
    record |= sections
    return train(TrainConfig.model_validate(record), root=folder, report=lambda line: None)


def add_network(gaussian: Path, folder: Path, *, width: int = 8, card_width: int = 8, bad_weight: float | None = None) -> Path:
    """Save, in `folder`, the Gaussian model with an untrained network, so that its score is not linear."""
    model, card = load_model(gaussian), read_card(gaussian / "card.toml")
    shape = {"multipliers": (1, 1), "embedding": 8, "static_maps": 1}
    lat, lon = (coordinate.values for coordinate in model.layout.coordinates.values())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GridUNet(2, 1, latitudes_from(lat), len(lon), card.wrap, NetworkConfig(width=width, **shape))
        with torch.no_grad():
            for weights in network.head.parameters():
                weights.normal_(std=0.1)
            if bad_weight is not None:
                network.maps[0, 0, 0] = bad_weight
    assert isinstance(model.normalisation, Normalisation)
    described = card.model_copy(update={"name": folder.name, "network": NetworkConfig(width=card_width, **shape)})
    return save_model(folder, described, model.reference, model.normalisation, model.layout.coordinates, network)


def write_config(path: Path, model: Path, out: Path | str, **changes: Any) -> Path:
    """Write a run.toml of the sections in RUN, updated by those in `changes`, and return it."""
    values: dict[str, Any] = {"model": str(model), "out": str(out), **RUN}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    path.write_text(tomli_w.dumps(values))
    return path


def piadm(arguments: Sequence[object], ranks: int | None = None, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Run the installed command on `ranks` ranks, or without a launcher."""
    return launch([PIADM, *map(str, arguments)], ranks=ranks, timeout=timeout)


def on_ranks(
    ranks: int | None, folder: Path, commands: Sequence[dict[str, Any]], timeout: float = 90
) -> tuple[subprocess.CompletedProcess[str], list[list[dict[str, Any]]]]:
    """Run `commands` one after the other on the same ranks; return the launcher's result, and per rank a report of each command.

    A command is {"args": [...]}, with "fault" if it is to fail, see `_harmed`. Its report is {"code", "out", "err"}. With
    "ends": true
    the command is expected to end its rank: it writes to the launcher's streams and there is no report.
    """
    folder.mkdir(exist_ok=True)
    script = folder / "script.json"
    script.write_text(json.dumps([{**command, "args": [str(arg) for arg in command["args"]]} for command in commands]))
    done = launch([sys.executable, __file__, str(script)], ranks=ranks, timeout=timeout)
    reports = []
    for rank in range(ranks or 1):
        path = folder / f"report-{rank}.jsonl"
        reports.append([json.loads(line) for line in path.read_text().splitlines()] if path.exists() else [])
    return done, reports


def call(*arguments: object, fault: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a command in this process; return its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with _fault(fault or {}), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code: object
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def one_line(report: dict[str, Any], code: int) -> str:
    """Return the message of a command that ended with `code`, after checking that it is one line without a traceback."""
    assert report["code"] == code, report
    assert "Traceback" not in report["err"]
    lines = report["err"].splitlines()
    assert len(lines) == 1 and lines[0].startswith("piadm: "), report
    return str(lines[0]).removeprefix("piadm: ")


@contextlib.contextmanager
def _fault(fault: dict[str, Any]) -> Iterator[None]:
    with mock.patch.object(running, "load_model", _harmed(load_model, fault)):
        yield


def _harmed(loader: Callable[..., Model], fault: dict[str, Any]) -> Callable[..., Model]:
    """Wrap a loader so that its models fail: {"kind": ..., "rank": r, "call": n, "file": path}.

    From the n-th call of the score on, on rank r, "nan" returns numbers that are not finite, "raise" raises an exception,
    "exit"
    SystemExit, "interrupt" KeyboardInterrupt, "kill" sends `kill -9`, and "touch" makes a file appear once. With "load"
    loading
    the model fails there, and "exit-load" raises SystemExit instead.
    """
    here = fault.get("rank", 0) == launcher_rank()

    def load(*arguments: Any, **options: Any) -> Model:
        model = loader(*arguments, **options)
        if not (fault and here):
            return model
        if fault["kind"] == "load":
            raise ValueError("weights.safetensors: no such file on this host")
        if fault["kind"] == "exit-load":
            sys.exit("the licence server does not answer")
        calls = 0

        def score(x: torch.Tensor, t: torch.Tensor, *condition: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            result = model.score(x, t, *condition)
            if calls < fault["call"]:
                return result
            if fault["kind"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault["kind"] == "touch" and calls == fault["call"]:
                Path(fault["file"]).touch()
            if fault["kind"] == "raise":
                raise ZeroDivisionError("division by zero in the network")
            if fault["kind"] == "exit":
                sys.exit("the licence server does not answer")
            if fault["kind"] == "interrupt":
                raise KeyboardInterrupt
            return result * float("nan") if fault["kind"] == "nan" else result

        return replace(model, score=score)

    return load


def _main(script: Path) -> None:
    """Run a script's commands on this rank, and report each as soon as it has ended."""
    report = script.with_name(f"report-{launcher_rank()}.jsonl")
    for command in json.loads(script.read_text()):
        if command.get("ends"):
            with _fault(command["fault"]):
                sys.exit(cli.main(command["args"]))
        result = call(*command["args"], fault=command.get("fault"))
        with open(report, "a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
