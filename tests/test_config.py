"""A run as one record: ids, changes, the round trip through run.toml, and values that contradict each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomli_w

from piadm_hpc.config.run import INDEPENDENT_KEYS, RunConfig, parse_ids
from piadm_hpc.config.templates import KINDS, template
from piadm_hpc.config.validation import ConfigError, build, read, without_none
from piadm_hpc.config.validation import dotted as flat
from piadm_hpc.models.config import TrainConfig, load_config


def refusal(**values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        build(RunConfig, {"model": "m", **values}, "run.toml")
    return str(caught.value).removeprefix("run.toml: ")


@pytest.mark.parametrize(
    ("text", "ids"), [("17", (17,)), ("17,42-45", (17, 42, 43, 44, 45)), (" 3 - 5 , 0", (3, 4, 5, 0)), ("7-7", (7,))]
)
def test_ids_from_text(text: str, ids: tuple[int, ...]) -> None:
    assert parse_ids(text) == ids


@pytest.mark.parametrize("text", ["", "a", "-3", "5-3", "1,,2", "1-2-3", "1.5", "17;18"])
def test_ids_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_ids(text)
    assert str(caught.value) == f"--only {text!r}: give sample ids such as 17,42-47"


def test_ids_of_a_run() -> None:
    assert RunConfig(model="m", samples=3).ids == (0, 1, 2)
    assert RunConfig(model="m", samples=3, only=(9, 4)).ids == (4, 9)
    for only in ([], [1, 1], [-1]):
        assert refusal(only=only).startswith("only: sample ids must be distinct and not negative, at least one (given ")


def test_values_that_do_not_go_together_are_named_all_at_once() -> None:
    assert refusal(solver={"fixed_depth": True}) == "solver: fixed_depth needs `sweeps`, the number of sweeps"
    text = refusal(
        chain={"integrator": "dpmpp-2m"}, corrector={"enabled": True, "blocks": 9},
        solver={"kind": "sequential"}, compute={"time_ranks": 2},
    )  # fmt: skip
    assert text.count(";") == 2 and "dpmpp-2m" in text and "use 1" in text and "cannot exceed corrector.steps" in text


@pytest.mark.parametrize(
    ("section", "key", "value", "needed"),
    [
        ("grid", "horizon", -1.0, "must be positive or 'auto'"),
        ("grid", "delta", "small", "must be a number or 'auto'"),
        ("grid", "delta", float("nan"), "must be a finite number or 'auto'"),
        ("grid", "blocks", 0, "must be positive or 'auto'"),
        ("grid", "steps", 0, "must be positive or 'auto'"),
        ("compute", "time_ranks", 0, "must be at least 1 or 'auto'"),
        ("compute", "time_ranks", 1.5, "must be a whole number or 'auto'"),
        ("compute", "threads", "all", "must be a whole number or 'auto'"),
        ("compute", "precision", "float16", "must be 'float32' or 'float64'"),
        ("solver", "tol", 0, "must be more than 0"),
        ("chain", "eta", 1.5, "must be at most 1"),
        ("chain", "integrator", "dimm", "unknown integrator 'dimm'; did you mean 'ddim' or 'gddim'"),
        ("chain", "score_time", "later", "must be 'now', 'middle', 'next' or 'ahead'"),
        ("output", "compression", "gzip", "must be 'zlib' or 'none'"),
    ],
)
def test_bad_values_of_a_run(section: str, key: str, value: object, needed: str) -> None:
    text = refusal(**{section: {key: value}})
    assert text.startswith(f"{section}.{key}: ") and needed in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chain": {"integrator": "rvv", "lam": 0.5}}, "chain: rvv does not read lam; lambda-ddim, "),
        ({"chain": {"integrator": "lambda-ddim-i", "lam": "best"}}, "chain: lam = 'best' is the closed form of lambda-ddim"),
        ({"chain": {"integrator": "rvv"}, "grid": {"calls": 25}}, "grid.calls = 25: rvv makes 2 calls a step; use 24 or 26"),
        ({"chain": {"integrator": "nvv"}, "grid": {"calls": 1}}, "grid.calls = 1: nvv makes 3 calls a step; use 3"),
        ({"grid": {"kind": "piadm", "calls": 10}}, "grid: calls: the published grid follows from step and block"),
        ({"chain": {"integrator": "roba"}, "corrector": {"enabled": True}}, "corrector.enabled: the corrector follows one-step"),
        ({"chain": {"eta": 0.0}, "solver": {"kind": "anderson"}}, "solver.kind: collocation solves all its points at once"),
        (
            {"chain": {"integrator": "roba"}, "solver": {"kind": "newton"}},
            "'newton' with chain.integrator = 'roba'",
        ),
        ({"corrector": {"enabled": True}, "solver": {"kind": "chords"}}, "solver.kind = 'chords' with corrector.enabled"),
        ({"solver": {"kind": "newton", "window": 8}}, "solver: kind = 'newton' does not read window; leave them out, or use a"),
        (
            {"solver": {"kind": "chords", "sweeps": 3, "parts": 5}},
            "newton, parareal); parts = 5: chords starts 4, 6, 8",
        ),
        (
            {"solver": {"alternate": True, "window": 8}},
            "solver: alternate: sweeps over whole blocks until `tol` is met",
        ),
        ({"solver": {"alternate": True, "fixed_depth": True, "sweeps": 3}}, "leave out window, pipelined and fixed_depth"),
        ({"solver": {"alternate": True, "kind": "newton"}}, "kind = 'newton' does not read alternate"),
        (
            {"solver": {"memory": 4}},
            "kind = 'picard' does not read memory; leave them out, or",
        ),
    ],
)
def test_integrators_and_budgets_that_do_not_fit(values: dict[str, dict[str, object]], message: str) -> None:
    assert message in refusal(**values)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("solver", {"kind": "sequential"}),
        ("solver", {"linear": "process"}),
        ("solver", {"start": "constant"}),
        ("solver", {"window": 8}),
        ("solver", {"pipelined": True}),
        ("solver", {"alternate": True}),
        ("corrector", {"enabled": True}),
        ("grid", {"blocks": 4}),
    ],
)
def test_what_belongs_to_chains_is_refused_with_collocation(section: str, values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"{section}.{next(iter(values))}: collocation solves all its points at once"):
        build(RunConfig, {"model": "m", "chain": {"eta": 0.0}, section: values})


def test_replace_changes_some_keys_and_checks_them() -> None:
    config = RunConfig(model="m", solver={"tol": 1e-3, "sweeps": 4})
    changed = config.replace(seed=5, solver={"tol": 1e-4}, only=(3,))
    assert (changed.seed, changed.solver.tol, changed.solver.sweeps, changed.only) == (5, 1e-4, 4, (3,))
    assert config.seed == 0 and config.replace() == config
    with pytest.raises(ConfigError, match=r"solver\.tol: must be more than 0"):
        config.replace(solver={"tol": -1})
    with pytest.raises(ConfigError, match=r"sead: unknown key; did you mean seed\?"):
        config.replace(sead=1)


def test_a_run_survives_being_written_as_toml(tmp_path: Path) -> None:
    given = RunConfig(
        model="m", only=(3, 17), seed=2**63 - 1, grid={"horizon": 12.5, "blocks": 3}, compute={"time_ranks": 4},
        solver={"sweeps": 7, "fixed_depth": True}, corrector={"enabled": True, "friction": 2.0},
    )  # fmt: skip
    for config in (given, RunConfig(model="m")):
        path = tmp_path / "run.toml"
        path.write_text(tomli_w.dumps(without_none(config.model_dump(mode="json"))))
        assert read(RunConfig, path) == config


def test_keys_that_may_change_between_runs_exist() -> None:
    known = flat(RunConfig(model="m", observations={"file": "stations.csv"}).model_dump())
    assert known.keys() >= INDEPENDENT_KEYS
    assert "seed" not in INDEPENDENT_KEYS and "compute.precision" not in INDEPENDENT_KEYS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_templates_are_valid_configurations(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "template.toml"
    path.write_text(template(kind))
    config = load_config(path) if kind.startswith("train") else read(RunConfig, path)
    if kind.startswith("paper"):
        assert config.solver.fixed_depth and config.chain.integrator == "piadm" and config.grid.kind == "piadm"
    if kind == "paper-ode":
        assert config.corrector.enabled and config.chain.eta == 0
    if kind == "train":  # a rank in the file, whatever its value, would choose EOFs
        assert config.reference.basis == "auto" and not {"rank", "max_rank"} & config.reference.model_fields_set


def test_keys_that_the_template_for_fields_only_mentions_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "template.toml"
    path.write_text(re.sub(r"(?m)^# (?=rename|missing_values|allow_outliers)", "", template("train")))
    data = load_config(path).data
    assert data.rename and data.missing_values and data.allow_outliers


def test_mistakes_in_a_training_configuration_are_told_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('name = "a b"\noutput = "x"\n[data]\nfiles = []\nvariables = ["t"]\nwarp = true\n[network]\nwidht = 3\n')
    with pytest.raises(ConfigError) as caught:
        read(TrainConfig, path)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{path}: 4 mistakes"
    assert "  data.warp: unknown key; did you mean data.wrap?" in lines
    assert "  network.widht: unknown key; did you mean network.width?" in lines
    assert any(line.startswith("  name: must be text that matches ") for line in lines)
