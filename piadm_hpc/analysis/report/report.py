"""`piadm report`: figure, table of costs and scores of a finished run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from ...config.run import RunConfig
from ...config.validation import build, read
from ...models.card import Model, load_model, note_samples
from ...models.registry import find_model
from ...run.resolve import ResolvedRun, resolve
from ...schema.layout import STEP
from ...store.reading import open_run
from ...store.settings import RUN_FILE
from ..comparison import Comparison, as_record, compare, has_statistics
from ..drawing.style import PlotError
from ..figures import Picture, draw
from ..origin import origin_line
from ..planes import Plane, chosen, evenly_spaced, planes_of, variables_in
from ..scores import counted
from .baselines import Baselines, measure
from .tables import cost_lines, score_lines

FIGURE, RECORD, SUMMARY = "report.png", "report.json", "summary.json"
MOST_MAPS = 4
"""Figures of one variable, of evenly spaced levels or times if it has more."""


def report(
    folder: str | os.PathLike[str],
    *,
    baselines: int = 0,
    against: str | os.PathLike[str] | None = None,
    card: bool = False,
    allow_code: bool = False,
    select: Mapping[str, str] | None = None,
    pdf: bool = False,
) -> str:
    """Write report.png and report.json into a run's folder and return the table to print.

    A variable over levels or times has a figure at each of them, at most MOST_MAPS, or at the values nearest to those of
    `select` by dimension. With `pdf` figures are also written as pages of PDF. The first `baselines` samples are solved again
    step by step and by DPM-Solver++(2M). Scores compare the samples with the statistics in the model's folder, or with the
    fields of a file `against`; `card` writes them into the model's card. Raises StoreError for a run that is incomplete or
    damaged, and ValueError for a model that is missing or not the run's own.
    """
    folder = Path(folder)
    with open_run(folder, flat=True) as dataset:
        config = stored_config(folder, dataset)
        path = run_model(folder, config)
        device = _device(config)
        model = load_model(path, device=device, allow_code=allow_code)
        _same_model(dataset, model, path)
        run = resolve(config, model, device)
        planes, left_out = shown_planes(dataset, select or {})
        maps = {plane.name for plane in planes}
        compared = compare(dataset, path, against=against, maps=maps) if against is not None or has_statistics(path) else []
        measured = _baselines(dataset, run, baselines) if baselines > 0 else None
        summary = _summary(folder)
        record = _record(dataset, config, model, compared, measured, summary)
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        lines = cost_lines(dataset, config, model.name, run.sampler.sequential_rounds, measured, summary)
        lines += ["", *(score_lines(compared) or [f"no scores: model {model.name} has no statistics.h5 to compare with"])]
        if card:
            lines += ["", f"scores of the samples: {note_samples(path, _for_card(config, compared))}"]
        lines += ["", *_figures(folder, dataset, config, model, compared, planes, pdf=pdf), *left_out]
    return "\n".join(lines)


def _for_card(config: RunConfig, compared: list[Comparison]) -> dict[str, Any]:
    """Scores, and the settings that determine them."""
    settings = config.model_dump(mode="json", exclude_none=True, include={"samples", "seed", "chain", "grid", "solver"})
    return {"run": settings} | {one.plane.name: as_record(one) for one in compared}


def stored_config(folder: Path, dataset: xr.Dataset) -> RunConfig:
    """The configuration of a run, from its run.toml or from an attribute of its samples.

    Raises ValueError when there is neither.
    """
    if (folder / RUN_FILE).is_file():
        return read(RunConfig, folder / RUN_FILE)
    if "piadm_config" not in dataset.attrs:
        raise ValueError(
            f"{folder}: neither {RUN_FILE} nor an attribute piadm_config gives its configuration; copy {RUN_FILE} there"
        )
    return build(RunConfig, json.loads(dataset.attrs["piadm_config"]), f"{folder}: piadm_config")


def run_model(folder: Path, config: RunConfig) -> Path:
    """The folder of the run's model, searched for as in the run, then beside the run and above it.

    Raises ValueError if it is not found.
    """
    try:
        return find_model(config.model)
    except ValueError as error:
        for parent in list(folder.resolve().parents)[:3]:
            if (parent / config.model).is_dir():
                return parent / config.model
        advice = "call `piadm report` from the folder in which the run was started"
        raise ValueError(f"{folder}: its model cannot be found: {error}; {advice}") from None


def _device(config: RunConfig) -> str:
    """The device of the baselines: the configured one if this machine has it, else the CPU."""
    if config.compute.device in ("auto", "cpu") or not torch.cuda.is_available():
        return "cuda" if config.compute.device == "auto" and torch.cuda.is_available() else "cpu"
    return config.compute.device


def _same_model(dataset: xr.Dataset, model: Model, path: Path) -> None:
    stored = dataset.attrs.get("model_sha256", model.sha256)
    if stored != model.sha256:
        differ = f"sha256 {model.sha256[:12]}, theirs {stored[:12]}"
        raise ValueError(f"{path} is not the model the samples were made with ({differ}); put the run's own model there")


def _summary(folder: Path) -> dict[str, Any] | None:
    """The measurements of the last call of the run, None unless it drew samples."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}); delete it to report without timings") from None
    return summary if isinstance(summary, dict) and summary.get("num_samples", 0) > 0 else None


def _baselines(dataset: xr.Dataset, run: ResolvedRun, count: int) -> Baselines:
    """Measure the baselines on the first `count` samples of the run, whose stored fields are the run's own end states."""
    model = run.model
    if model.process.fields > 1:
        raise ValueError(f"--baselines: DPM-Solver++ moves the position alone; {model.name!r} has momentum too")
    if model.conditioning is not None:
        raise ValueError(f"--baselines: they have no condition, and {model.name!r} is conditional; leave --baselines out")
    dim = str(dataset.attrs["sample_dim"])
    first = dataset.isel({dim: slice(0, count)})
    variables = model.layout.variables
    own = model.encode({v.name: first[v.name].transpose(dim, *v.dims).values for v in variables})
    samples = [int(sample) for sample in first[dim].values]
    return measure(run.sampler, model.process, own, samples, tol=run.config.solver.tol)


def _record(
    dataset: xr.Dataset,
    config: RunConfig,
    model: Model,
    compared: list[Comparison],
    measured: Baselines | None,
    summary: dict[str, Any] | None,
) -> dict[str, Any]:
    """The report as nested plain values."""
    record: dict[str, Any] = {
        "model": model.name,
        "model_sha256": model.sha256,
        "num_samples": int(dataset.sizes[str(dataset.attrs["sample_dim"])]),
        "not_converged": int((dataset["converged"].values == 0).sum()),
        "rounds": float(np.median(dataset["rounds"].values)),
        "model_calls": float(np.median(dataset["model_calls"].values)),
        "config": config.model_dump(mode="json", exclude_none=True),
        "scores": {c.plane.name: as_record(c) for c in compared},
        "spectra": {c.plane.name: _spectra(c) for c in compared},
    }
    if measured is not None:
        record["baselines"] = asdict(measured)
    if summary is not None:
        record["summary"] = summary
    return record


def _spectra(comparison: Comparison) -> dict[str, list[float]]:
    """Power per wavenumber, from wavenumber 0 on, in units squared."""
    both = {"samples": comparison.samples.power.mean(0), "reference": comparison.reference.power}
    return {name: [float(f"{value:.6g}") for value in power] for name, power in both.items()}


def shown_planes(dataset: xr.Dataset, select: Mapping[str, str]) -> tuple[list[Plane], list[str]]:
    """The maps of a run that figures show, and lines about those that they do not."""
    planes, without = planes_of(dataset, variables_in(dataset))
    planes, notes = chosen(planes, select, MOST_MAPS)
    return planes, [f"no figure of {line}" for line in without] + [f"figures of {line}" for line in notes]


def _figures(
    folder: Path,
    dataset: xr.Dataset,
    config: RunConfig,
    model: Model,
    compared: list[Comparison],
    planes: Sequence[Plane],
    *,
    pdf: bool,
) -> list[str]:
    """Draw one figure per map; returns lines that name the files, or explain why there are none."""
    if model.layout.topology is not None:
        return [f"figures of conformers are drawn by `piadm verify`; numbers: {folder / RECORD}"]
    by_name = {c.plane.name: c for c in compared}
    written = []
    try:
        for number, plane in enumerate(planes):
            path = folder / (FIGURE if number == 0 else f"report-{plane.file_name}.png")
            paths = [path, path.with_suffix(".pdf")] if pdf else [path]
            draw(_picture(dataset, config, model, plane, by_name.get(plane.name)), *paths)
            written += [f"figure: {one}" for one in paths]
    except PlotError as error:
        written.append(str(error))
    return [*written, f"numbers: {folder / RECORD}"]


def _picture(dataset: xr.Dataset, config: RunConfig, model: Model, plane: Plane, compared: Comparison | None) -> Picture:
    fields = plane.samples(dataset) if compared is None else compared.fields
    names = dataset[str(dataset.attrs["sample_dim"])].values
    ids = [str(int(name)) for name in names]
    if STEP in dataset[plane.variable].dims:
        ids = [f"{name}, step {step}" for name in ids for step in range(1, dataset.sizes[STEP] + 1)]
    return Picture(
        title=f"{counted(len(names), 'sample')} of {model.name}: {plane.title}",
        name=plane.name,
        attrs=plane.attrs,
        grid=plane.grid,
        fields=fields,
        names=[ids[k] for k in evenly_spaced(len(ids), len(fields))],
        power=None if compared is None else compared.samples.power,
        reference=None if compared is None else compared.reference,
        sweeps=(dataset["sweeps"] + dataset["sequential_steps"]).values,
        residual=dataset["residual"].values,
        tol=config.solver.tol,
        rounds="sweeps" if (dataset["sweeps"].values > 0).any() else "steps",
        note=origin_line(dataset, model.name),
        examples=None if compared is None else compared.examples,
        examples_label="" if compared is None else compared.examples_label,
    )
