"""Options that several commands share, and the configuration of a run that they describe."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..config.run import RunConfig, parse_ids
from ..config.validation import ConfigError, override, parse_toml, read
from ..host.launcher import launcher_rank, launcher_size


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Add the options that describe a run: its file, the options with names, and --set for any key."""
    command.add_argument("config", nargs="?", metavar="run.toml", help="configuration; `piadm init` prints one")
    command.add_argument("--model", help="name of a shipped model, or a model folder")
    command.add_argument("--out", metavar="FOLDER", help="folder of the run")
    command.add_argument("--samples", type=int, metavar="N", help="number of samples")
    command.add_argument("--only", metavar="IDS", help="ids of the samples to draw, for example 17,42-47")
    command.add_argument("--condition", metavar="FILE", help="file of conditions: the model's inputs by name, one or many")
    command.add_argument("--guidance", type=float, metavar="W", help="weight of classifier-free guidance; 1 is the model itself")
    command.add_argument("--seed", type=int, help="the number from which all noise is derived")
    command.add_argument("--tol", type=float, help="bound on a sample's error, in units of the data's standard deviation")
    command.add_argument("--density", action="store_true", help="compute log_density of every sample, from the probability flow")
    command.add_argument("--time-ranks", metavar="N|auto", help="ranks that share one sample's time axis")
    command.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    command.add_argument("--model-batch", type=int, metavar="ROWS", help="largest number of rows of one network call")
    command.add_argument(
        "--observations", metavar="FILE", help="draw from the posterior given these observations: a CSV or NetCDF file"
    )
    add_allow_code(command)
    add_set(command, "grid.steps=64")


def add_allow_code(command: argparse.ArgumentParser) -> None:
    """Add --allow-code, for commands that load a model."""
    command.add_argument(
        "--allow-code", action="store_true", help="let the model's folder run its own code (an imported or exported network)"
    )


def add_set(command: argparse.ArgumentParser, example: str) -> None:
    """Add --set KEY=VALUE, which may be given several times."""
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"set any key of the configuration, for example {example}"
    )


def add_select(command: argparse.ArgumentParser) -> None:
    """Add --select DIM=VALUE, which may be given several times."""
    command.add_argument(
        "--select", action="append", default=[], metavar="DIM=VALUE",
        help="for variables with levels or times, the maps nearest to this value, for example plev=85000 [a few evenly spaced]",
    )  # fmt: skip


def selected(texts: list[str]) -> dict[str, str]:
    """Values by dimension from --select; raises ConfigError for text without an equals sign."""
    if wrong := [text for text in texts if not all(text.partition("="))]:
        raise ConfigError(f"--select {', '.join(wrong)}: give DIM=VALUE, for example plev=85000")
    return {dim.strip(): value.strip() for dim, _, value in (text.partition("=") for text in texts)}


def described_run(options: argparse.Namespace) -> RunConfig:
    """Read the run that a command line describes: the file first, then --set, then the options with names."""
    changes = [override(text) for text in options.set]
    named = {
        "model": options.model,
        "out": options.out,
        "samples": options.samples,
        "only": None if options.only is None else list(parse_ids(options.only)),
        "seed": options.seed,
        "condition.file": options.condition,
        "condition.guidance": options.guidance,
        "solver.tol": options.tol,
        "compute.time_ranks": None if options.time_ranks is None else whole_or_text(options.time_ranks),
        "compute.device": options.device,
        "compute.model_batch": options.model_batch,
        "density.enabled": options.density or None,
        "allow_code": options.allow_code or None,
        "observations.file": options.observations,
    }
    changes += [(key, value) for key, value in named.items() if value is not None]
    if options.config is None and "model" not in dict(changes):
        raise ConfigError("give a configuration (`piadm init` prints one) or --model with the name or folder of a model")
    return read(RunConfig, options.config, changes)


def whole_or_text(text: str) -> str | int:
    """The whole number in a text, or the text itself; the configuration checks whether it is a known word."""
    return int(text) if re.fullmatch("-?[0-9]{1,30}", text) else text


def speaks() -> bool:
    """Whether this process writes to the terminal; only the first rank of a launch does."""
    return launcher_size()[1] == 1 or launcher_rank() == 0


def is_training(path: str | Path) -> bool:
    """Whether a configuration describes a training, that is, has a section `data`; false for a file that cannot be read."""
    try:
        return "data" in parse_toml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # the command that reads the file reports what is wrong with it
