"""The arrangement that `plan` proposes fits into memory, is accepted by the run, and is not proposed a second time."""

from __future__ import annotations

from typing import Any

import pytest

from piadm_hpc import load_model
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import override
from piadm_hpc.models.card import Model
from piadm_hpc.run.arrange import Arrangement, arrange, memory_of_host
from piadm_hpc.run.resolve import make_sampler, resolve

AMPLE = 10**15


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("ccsm-temperature")


def arranged(
    model: Model, time_ranks: int, *, available: int = AMPLE, batch: int = 4, **settings: Any
) -> tuple[Arrangement, RunConfig]:
    """Return the proposal for a run in which a point of a sample takes one byte, and the run with the proposal applied."""
    settings.setdefault("chain", {"integrator": "gaussian"})  # its default has 48 steps
    config = RunConfig(model="ccsm-temperature", **settings)
    made = arrange(
        resolve(config, model),
        time_ranks=time_ranks,
        batch=batch,
        memory=lambda p, s: p * s,
        available=available,
    )
    pasted = [override(f"{key}={str(value).lower()}") for key, value in made.settings if value is not None]
    assert all(f"--set {key}={str(value).lower()}" in str(made) for key, value in made.settings if value is not None)
    changes: dict[str, dict[str, Any]] = {}
    for key, value in [*pasted, *[(key, None) for key, value in made.settings if value is None]]:
        section, name = key.split(".")
        changes.setdefault(section, {})[name] = value
    return made, config.replace(**changes)


CASES: list[tuple[str, int, dict[str, Any], list[tuple[str, Any]]]] = [
    ("one block", 48, {}, []),
    ("window of 8", 2, {}, [("solver.window", 8)]),
    ("window of 9", 3, {}, [("solver.window", 9)]),
    ("window of 24", 24, {}, [("solver.window", 24)]),
    ("one block", 48, {"solver": {"window": 8}}, [("solver.window", None)]),
    ("pipelined over 6", 4, {"solver": {"sweeps": 5, "fixed_depth": True}}, [("grid.blocks", 6), ("solver.pipelined", True)]),
    ("one block", 4, {"corrector": {"enabled": True}}, []),
    ("every second point by turns", 4, {"solver": {"alternate": True}}, []),
    ("collocation", 4, {"chain": {"eta": 0.0}}, []),
    ("step by step", 1, {"solver": {"kind": "sequential"}}, []),
    ("2 of 4 samples", 48, {"available": 2}, [("compute.in_flight", 2)]),
    ("3 of 4 samples", 4, {"chain": {"eta": 0.0}, "grid": {"steps": 16}, "available": 15}, [("compute.in_flight", 3)]),
    ("blocks of equal Lambda", 4, {"available": 6}, []),
]


@pytest.mark.parametrize(
    ("words", "time_ranks", "settings", "wanted"), CASES, ids=[f"{c[0]}, {c[1]} ranks {i}" for i, c in enumerate(CASES)]
)
def test_what_is_proposed_fits_is_accepted_and_is_then_as_it_is_set(
    model: Model, words: str, time_ranks: int, settings: dict[str, Any], wanted: list[tuple[str, Any]]
) -> None:
    made, followed = arranged(model, time_ranks, **settings)
    assert words in made.why
    assert [pair for pair in wanted if pair not in made.settings] == []
    again, same = arranged(
        model,
        time_ranks,
        available=settings.get("available", AMPLE),
        **followed.model_dump(exclude={"model"}, exclude_unset=True),
    )
    assert again.settings == () and same == followed and "as it is set" in str(again)


def test_blocks_are_as_few_as_fit_and_no_shorter_than_the_ranks(model: Model) -> None:
    made, followed = arranged(model, 4, available=6)
    count = dict(made.settings)["grid.blocks"]
    lengths = [len(block) for block in make_sampler(followed, model).chain.grid.blocks()]
    assert len(lengths) == count and max(lengths) <= 24 and min(lengths) >= 4
    fewer = followed.replace(grid={"blocks": count - 1})
    assert max(len(block) for block in make_sampler(fewer, model).chain.grid.blocks()) > 24


@pytest.mark.parametrize("settings", [{}, {"chain": {"eta": 0.0}}], ids=["chain", "collocation"])
def test_what_cannot_fit_is_said(model: Model, settings: dict[str, Any]) -> None:
    made, _ = arranged(model, 4, available=0, **settings)
    assert made.settings == () and made.why.startswith("does not fit: one sample needs")


def test_a_hosts_memory_is_shared_by_its_ranks() -> None:
    assert 0 < memory_of_host(10**6) <= memory_of_host(1) < 10**14
    assert memory_of_host(10**6) > 10**6  # at most as many ranks as there are cores share a host
