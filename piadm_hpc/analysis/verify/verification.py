"""`piadm verify`: the samples of a run compared with real fields or conformers, as an HTML page and as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...config import plugins
from ...models.card import HELD_OUT
from ...models.registry import find_model
from ...store.conformers import TOPOLOGY
from ...store.reading import open_run
from ..comparison import compare, fields_like, has_statistics
from ..origin import origin
from ..pages import Section, number, write_page, write_record
from ..planes import Plane, chosen, planes_of, variables_in
from ..report.report import MOST_MAPS, run_model, stored_config
from ..report.tables import table
from ..weights.checking import checked_energy
from ..weights.weighing import stored_weights
from .conditional import under_conditions
from .conformers import load_conformers
from .coupling import coupling_sections
from .fields import sections_of as field_sections
from .forecasts import sections_of as forecast_sections
from .molecules import sections_of as conformer_sections
from .posterior import sections_of as posterior_sections

FOLDER, PAGE, RECORD = "report", "verify.html", "verify.json"


def verify(
    run: str | os.PathLike[str],
    *,
    against: str | None = None,
    truth: str | None = None,
    training: str | None = None,
    energy: str | None = None,
    withheld: str | None = None,
    select: Mapping[str, str] | None = None,
) -> str:
    """Write report/verify.html and report/verify.json into a run's folder and return the tables to print.

    Real fields or conformers come from the file `against`, or else from the folder of the run's model. For fields, `truth` is a
    file with the true field, or for forecasts with the dated fields of their starts and later ones, `training` a file of training
    fields, `withheld` observations that a posterior was not given, and `select` chooses maps as in `report`; for conformers,
    `energy` names a function of positions [n, atoms, 3] in nm, as "module:function". Raises ValueError when there is nothing to
    compare with, and StoreError for a run that is incomplete or damaged.
    """
    folder = Path(run)
    with open_run(folder, flat=True) as dataset:
        cost, about = _cost(dataset), _origin(folder, dataset)
        if "topology" in dataset:
            _only_for("fields", truth=truth, training=training, withheld=withheld, select=select)
            sections, record = _conformers(folder, dataset, against, energy)
        else:
            _only_for("conformers", energy=energy)
            sections, record = _given(folder, dataset, withheld)
            if not sections or any(name is not None for name in (against, truth, training)):
                more, numbers_of_fields = _fields(folder, dataset, against, truth, training, select or {})
                sections, record = [*sections, *more], record | numbers_of_fields
    out = folder / FOLDER if folder.is_dir() else folder.parent / FOLDER
    sections = [*sections, cost]
    page = write_page(out / PAGE, f"Verification of {folder.name or folder.resolve().name}", sections, about)
    numbers = write_record(out / RECORD, record | {"origin": about})
    return "\n".join([*_text(sections), f"page: {page}", f"numbers: {numbers}"])


def _only_for(kind: str, **given: object) -> None:
    wrong = [f"--{name}" for name, value in given.items() if value]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: only for {kind}; leave it out")


def _conformers(
    folder: Path, dataset: xr.Dataset, against: str | None, energy: str | None
) -> tuple[list[Section], dict[str, Any]]:
    file = folder / "samples.h5" if folder.is_dir() else folder
    own = load_conformers(file, f"samples of {folder.name}")
    config = None if against is not None else stored_config(folder, dataset)
    reference = Path(str(against)) if config is None else run_model(folder, config) / HELD_OUT
    if not reference.is_file():
        raise ValueError(f"{reference}: no such file; give reference conformers with --against FILE")
    real = load_conformers(reference, reference.name, file.with_name(TOPOLOGY))
    real = real if config is None else under_conditions(real, reference, config)
    ids = dataset[str(dataset.attrs["sample_dim"])].values.astype(np.int64)
    weights = stored_weights(file.parent, ids)
    function = None if energy is None else checked_energy(energy, plugins.load("--energy", energy))
    return conformer_sections(own, real, function, weights)


def _given(folder: Path, dataset: xr.Dataset, withheld: str | None) -> tuple[list[Section], dict[str, Any]]:
    """Sections of a posterior; none for a run without observations."""
    config = stored_config(folder, dataset)
    if config.observations is None:
        if withheld is not None:
            raise ValueError(f"--withheld: {folder} was drawn without observations; use --truth for a field")
        return [], {}
    if config.condition.file is not None:
        if withheld is not None:
            raise ValueError(f"--withheld: the samples in {folder} are given conditions as well; use --truth for a field")
        return [], {}
    return posterior_sections(folder, dataset, run_model(folder, config), config.observations, withheld)


def _fields(
    folder: Path,
    dataset: xr.Dataset,
    against: str | None,
    truth: str | None,
    training: str | None,
    select: Mapping[str, str],
) -> tuple[list[Section], dict[str, Any]]:
    model = find_model(run_model(folder, stored_config(folder, dataset)))
    planes, notes = _planes(dataset, select)
    names = {plane.name for plane in planes}
    forecasts = truth is not None and "lead_time" in dataset
    files = (against, None if forecasts else truth, training)
    read = [None if name is None else fields_like(model, name).fields for name in files]
    known = against is not None or has_statistics(model)
    compared = compare(dataset, model, against=against, fields=read[0], maps=names) if known else []
    if not compared and truth is None and training is None:
        raise ValueError(f"model {model.name} has no statistics; give --against, --truth or --training FILE")
    sections, record = field_sections(dataset, planes, compared, *read)
    coupled, numbers = coupling_sections(dataset, model, against)
    sections, record = [*sections, *coupled], record | numbers
    if forecasts and truth is not None:
        more, record["forecasts"] = forecast_sections(folder, planes, model, truth)
        sections = [*more, *sections]
    given = {"--against": against, "--truth": truth, "--training": training}
    if left_out := [name for name, file in given.items() if file is None]:
        notes = [*notes, f"For more, give files of fields: {', '.join(left_out)}."]
    return [*sections, *([Section("Not compared", notes=notes)] if notes else [])], record


def _planes(dataset: xr.Dataset, select: Mapping[str, str]) -> tuple[list[Plane], list[str]]:
    variables = variables_in(dataset)
    planes, without = planes_of(dataset, variables)
    if not planes:
        listed = ", ".join(f"{variable.name} over {' x '.join(variable.dims)}" for variable in variables)
        raise ValueError(f"the samples have no fields over two dimensions to verify, only {listed}")
    planes, notes = chosen(planes, select, MOST_MAPS)
    return planes, [*(f"No maps of {line}." for line in without), *(f"{line[0].upper()}{line[1:]}." for line in notes)]


def _origin(folder: Path, dataset: xr.Dataset) -> dict[str, str]:
    try:
        model = stored_config(folder, dataset).model
    except ValueError:
        model = str(dataset.attrs.get("source", ""))
    return origin(dataset, Path(model).name)


def _cost(dataset: xr.Dataset) -> Section:
    """The cost of the samples, and the number that did not converge."""
    rows = [["samples", str(dataset.sizes[str(dataset.attrs["sample_dim"])])]]
    if "rounds" in dataset:
        rows.append(["rounds, median", number(float(np.median(dataset["rounds"].values)))])
        rows.append(["network calls, median", number(float(np.median(dataset["model_calls"].values)))])
        rows.append(["not converged by themselves", str(int((dataset["converged"].values == 0).sum()))])
    return Section("Cost", ("", "value"), rows)


def _text(sections: list[Section]) -> list[str]:
    lines: list[str] = []
    for section in sections:
        lines += [section.title, *(table(section.head, section.rows) if section.rows else []), *section.notes, ""]
    return lines
