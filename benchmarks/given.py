"""Inputs of a model or a run beyond its configuration: fields, conditions, starts, observations, energies and months.

Each function is a generator as in benchmarks/inputs.py.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from harm_fields import COLUMNS, NAMES, harm_fields, harm_table, write_fields
from stock import LAT, LON, Stock

Arguments = list[object]
ODD_NUMBERS = [0, -1, 1, 2, 3, 1e-9, 1e30, "nan", "inf", "", "x", 10**12]


def fields(dice: Random, place: Path, stock: Stock) -> Arguments:
    """Gridded files to train on, to fit a reference to, to compare with, or to find the density of."""
    path = write_fields(dice, harm_fields(dice, stock.fields()), place / "fields.nc")
    data: dict[str, Any] = {"files": [path.name]}
    for key, values in RECIPE_KEYS.items():
        if dice.random() < 0.12:
            data[key] = dice.choice(values)
    sections: dict[str, Any] = {"reference": {"basis": dice.choice(BASES)}} if dice.random() < 0.3 else {}
    if dice.random() < 0.3:
        sections["condition"] = {"inputs": {dice.choice(NAMES): _input(dice, path.name) for _ in range(dice.choice([1, 2]))}}
    recipe = place / "train.toml"
    with contextlib.suppress(ValueError, TypeError):
        recipe.write_text(tomli_w.dumps(stock.recipe("trained", place / "trained", data=data, **sections)))
    model = dice.choice([stock.model, stock.model, stock.forecast])
    copy = place / "model"
    shutil.copytree(model, copy)
    run = place / "run"
    shutil.copytree(stock.run, run)
    return dice.choice(
        [
            ["train", recipe, "--no-probe"], ["train", recipe, "--no-probe"], ["train", recipe, "--no-probe"],
            ["reference", copy, "--data", path, "--out", place / "r.h5"], ["verify", run, "--against", path],
            ["report", run, "--against", path], ["verify", run, "--truth", path], ["verify", run, "--training", path],
            ["verify", run, "--withheld", path], ["density", "--model", copy, "--data", path, "--traces", "2"],
            ["density", "--model", stock.model, "--data", path, f"--{dice.choice(DENSITY)}={dice.choice(ODD_NUMBERS)}"],
        ]
    )  # fmt: skip


BASES = ["auto", "smooth", "eof", "harmonic_eof", "spherical", "fourier", "pixelwise", "isotropic"]
DENSITY = ["tol", "traces", "batch", "device", "model-batch"]
RECIPE_KEYS: dict[str, list[Any]] = {
    "variables": [["t"], ["tas", "x"], []],
    "rename": [{"tas": "t"}, {"x": "tas"}, {"tas": "lat"}, {"time": "year"}],
    "sample_dims": [["realization"], ["time", "realization"], ["lat"], []],
    "spatial_dims": [["lon", "lat"], ["y", "x"], ["lat", "lat"]],
    "select": [{"level": 500}, {"time": "2000-01-01"}, {"lat": 75.0}, {"nothing": 1}],
    "missing_values": [[-9999], [280.0], [float("nan")]],
    "allow_outliers": [["tas"], ["x"]],
    "anomaly": ["mean", "monthly"],
    "wrap": [False],
    "scale": ["global"],
    "area_weights": [True],
    "transforms": [{"tas": {"kind": "log"}}, {"tas": {"kind": "rank"}}, {"tas": {}}, {"tas": {"kind": "logit", "lower": 0}}],
    "max_missing": [0.0, 0.999],
    "validation_fraction": [0.1, 0.9],
    "test_fraction": [0.2, 0.99],
    "test_files": [["*.nc"], ["none.nc"]],
    "attributes": [{"tas": {"units": "degC"}}, {"tas": {"units": "m"}}, {"tas": {"units": "\n"}}],
}


def _input(dice: Random, file: str) -> dict[str, Any]:
    """One input of a conditional recipe."""
    found: dict[str, Any] = {"kind": dice.choice(["lag", "map", "scalar", "class", "month", "ensemble_mean", "x"])}
    if dice.random() < 0.6:
        found["files"] = [file]
    if dice.random() < 0.4:
        found["variable"] = dice.choice(NAMES)
    if dice.random() < 0.3:
        found["lag"] = dice.choice([1, 2, 100, 0])
    if dice.random() < 0.4:
        found["classes"] = dice.choice([1, 2, 3, 10**9])
    return found


def conditions(dice: Random, place: Path, stock: Stock) -> Arguments:
    """A file of conditions, or of fields with dates that a forecast starts from."""
    dated = dice.random() < 0.3
    dataset = stock.fields().isel(time=slice(-3, None)) if dated else stock.starts(dice.choice([1, 2, 3]))
    path = write_fields(dice, harm_fields(dice, dataset), place / "given.nc")
    out = place / "run"
    values = stock.configuration(out, model=str(stock.forecast), samples=2)
    values["rollout"] = {"leads": 2} if dice.random() < 0.5 else {}
    if dice.random() < 0.2:
        values["rollout"] |= {dice.choice(["leads", "threshold", "months", "pipelined"]): dice.choice([1, 2, 0, 1e9, "on", "x"])}
    if dice.random() < 0.2:
        shutil.copytree(stock.forecasts, out)
    config = place / "run.toml"
    config.write_text(tomli_w.dumps(values))
    more: Arguments = [f"--guidance={dice.choice([0, 1, 2, -1, 'nan', 101])}"] if dice.random() < 0.2 else []
    more += ["--density"] if dice.random() < 0.1 else []
    return dice.choice(
        [
            ["sample", config, "--condition", path, *more], ["plan", config, "--condition", path, *more],
            ["rollout", config, "--init", path, "--leads", "2", *more], ["rollout", config, "--init", path, *more],
            ["rollout", config, "--init", path, f"--leads={dice.choice(ODD_NUMBERS)}", *more],
            ["rollout", config, *more], ["sample", "--model", stock.model, "--out", out, "--condition", path],
            ["submit", config, "--print", "--mpi=none", "--condition", path],
        ]
    )  # fmt: skip


def observations(dice: Random, place: Path, stock: Stock) -> Arguments:
    """A table or fields of observations, and the keys of their section."""
    if dice.random() < 0.3:
        path = write_fields(dice, harm_fields(dice, stock.fields().isel(time=0, drop=dice.random() < 0.8)), place / "seen.nc")
    else:
        path = place / f"seen{dice.choice(['.csv', '.csv', '.tsv', '.txt', '.nc', ''])}"
        text = harm_table(dice, _table(dice)).to_csv(index=False, sep=dice.choice([",", ",", "\t", " ", ";"]))
        path.write_text(text.replace("\x00", ""), encoding=dice.choice(["utf-8", "utf-8", "utf-16"]))
    section: dict[str, Any] = {"file": str(path)}
    for key, values in OBSERVATIONS_KEYS.items():
        if dice.random() < 0.15:
            section[key] = dice.choice(values)
    model = dice.choice([*[stock.model] * 9, stock.forecast])
    given = {"condition": {"file": str(stock.folder / "starts.nc")}} if model == stock.forecast else {}
    config = place / "run.toml"
    config.write_text(tomli_w.dumps(stock.configuration(place / "run", model=str(model), observations=section, **given)))
    run = place / "finished"
    shutil.copytree(dice.choice([stock.run, *[stock.posterior] * 4]), run)
    return dice.choice(
        [["sample", config], ["sample", config], ["plan", config], ["check", config], ["verify", run, "--withheld", path]]
    )


OBSERVATIONS_KEYS: dict[str, list[Any]] = {
    "std": [0.5, 0, -1, 1e30, "x"],
    "select": [{"time": "2003-12-01"}, {"time": 3}, {"x": 1}, {}],
    "cells": ["points", "boxes"],
    "nearest": [True],
    "absolute": [True],
    "month": [1, 12, 13],
    "operator": ["nowhere:f", "math:sqrt", "x", "os:getcwd"],
    "score": ["kalman", "mmps", "sda", "dps", "pigdm"],
    "gamma": [0, 1.0],
    "sha256": ["0" * 64, ""],
}


def _table(dice: Random) -> pd.DataFrame:
    """Points, boxes or harmonics in the model's domain."""
    count, generator = dice.choice([1, 4, 12]), np.random.default_rng(dice.randrange(2**32))
    values = {"value": 280 + generator.standard_normal(count), "std": 0.3, "units": "K"}
    lat, lon = generator.uniform(LAT.min(), LAT.max(), count), generator.uniform(-180, 180 + LON.max() / 2, count)
    places: list[dict[str, Any]] = [
        {"lat": lat, "lon": lon},
        {"south": lat - 5, "north": lat + 5, "west": lon - 5, "east": lon + 5},
        {"degree": np.arange(count), "order": 0},
    ]
    groups = {"group": "one", "correlation": 0.5} if dice.random() < 0.2 else {}
    return pd.DataFrame({**dice.choice(places), **values, **groups})


def analyses(dice: Random, place: Path, stock: Stock) -> Arguments:
    """Commands on finished runs with odd options: energies, months, temperatures, formats, names of columns."""
    out = place / "run"
    shutil.copytree(dice.choice([stock.run, stock.dense, stock.dense, stock.posterior, stock.forecasts, stock.forecasts]), out)
    number, text = dice.choice(ODD_NUMBERS), dice.choice([*COLUMNS, "openmm", "lennard-jones", "math:sqrt", "nowhere:f"])
    months = dice.choice(["7", "1-12", "12,1,2", "0", "13", "-1", "x", "", "1-1000000000", "7,7"])
    energy = dice.choice([*(f"given:{name}" for name in ENERGIES), text])
    weighing: Arguments = ["weigh", out, f"--energy={energy}"]
    return dice.choice(
        [
            weighing, weighing, [*weighing, f"--resample={number}"], [*weighing, "--smooth"],
            [*weighing, f"--temperature={number}"], [*weighing, "--force-field", text],
            ["export", out, "--absolute", f"--month={months}"], ["export", out, f"--month={months}"],
            ["export", out, "--absolute", "--to=zarr"], ["export", out, f"--to={dice.choice(['xtc', 'pdb', 'dcd', 'x'])}"],
            ["export", out, "--absolute", f"--month={months}", "--out", dice.choice([place, place / "no/where.nc", out])],
            ["verify", out], ["report", out], ["report", out, f"--baselines={number}"], ["check", out, "--deep"],
            ["join", out, "--copy"], ["sample", out / "run.toml"], ["rollout", out / "run.toml"],
        ]
    )  # fmt: skip


ENERGIES: dict[str, Any] = {
    "flat": lambda fields: np.zeros(len(fields)),
    "short": lambda fields: np.zeros(1),
    "text": lambda fields: "text",
    "fails": lambda fields: 1 / 0,
    "unknown": lambda fields: np.full(len(fields), np.nan),
    "greedy": lambda fields, more: None,
    "cut": lambda fields: np.where(np.arange(len(fields)) > 1, np.inf, 0.0),
    "complex": lambda fields: np.full(len(fields), 1j),
    "itself": lambda fields: fields,
}
globals().update(ENERGIES)
