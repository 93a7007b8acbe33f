"""Few functions lie between the command and the network, and a run is resolved once on the way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from helpers import RUN, make_model, write_config

import piadm_hpc
from piadm_hpc.cli.main import main
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.run import execute, resolve

PACKAGE = Path(piadm_hpc.__file__).parent
MOST = 14


def names_of(frame: FrameType | None) -> list[str]:
    """List the package's functions on the stack as file:function, outermost first, without those of the command line."""
    names: list[str] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents and path.relative_to(PACKAGE).parts[0] != "cli":
            names.insert(0, f"{path.relative_to(PACKAGE)}:{frame.f_code.co_name}")
        frame = frame.f_back
    return names


@pytest.mark.parametrize("settings", [[], ["--set", "chain.eta=0"]], ids=["chain", "flow"])
def test_few_functions_lie_between_the_command_and_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    stacks: list[list[str]] = []

    def watched(*arguments: Any, **options: Any) -> Model:
        model = load_model(*arguments, **options)

        def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            stacks.append(names_of(sys._getframe(1)))
            return model.score(x, t)

        return replace(model, score=score)

    monkeypatch.setattr(execute, "load_model", watched)
    config = write_config(tmp_path / "run.toml", make_model(tmp_path), tmp_path / "out", **(RUN | {"samples": 2}))
    assert main(["sample", str(config), *settings]) == 0
    deepest = max(stacks, key=len)
    assert deepest[0] == "run/execute.py:execute" and deepest[-1].startswith("solvers/")
    assert len(deepest) <= MOST, "\n".join(deepest)


@pytest.mark.parametrize("command", [["sample"], ["plan"], ["plan", "--memory", "1e-3"]], ids=" ".join)
def test_a_run_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """The settings that follow from configuration and model are computed once and passed on."""
    made: list[str] = []
    for builder in ("with_compilation", "make_reference", "with_defaults", "make_grid", "make_scheme"):
        original = getattr(resolve, builder)

        def counted(*given: Any, builder: str = builder, original: Any = original, **more: Any) -> Any:
            made.append(builder)
            return original(*given, **more)

        monkeypatch.setattr(resolve, builder, counted)
    config = write_config(tmp_path / "run.toml", make_model(tmp_path), tmp_path / "out", **(RUN | {"samples": 2}))
    assert main([*command, str(config)]) == 0
    assert made == ["with_compilation", "make_reference", "with_defaults", "make_grid", "make_scheme"]
