"""`piadm verify`: the samples of a run compared with real fields or conformers, as an HTML page and as JSON."""

from __future__ import annotations

import os
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
from ..pages import Section, number, write_page, write_record
from ..report.report import run_model, stored_config
from ..report.tables import table
from ..weights.checking import checked_energy
from ..weights.weighing import stored_weights
from .conformers import load_conformers
from .fields import sections_of as field_sections
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
) -> str:
    """Write report/verify.html and report/verify.json into a run's folder and return the tables to print.

    Real fields or conformers come from the file `against`, or else from the folder of the run's model. For fields, `truth` is a
    file with the true field and `training` a file of training fields, and `withheld` observations that a posterior was not given;
    for conformers, `energy` names a function of positions
    [n, atoms, 3] in nm, as "module:function". Raises ValueError when there is nothing to compare with, and StoreError for a run
    that is incomplete or damaged.
    """
    folder = Path(run)
    with open_run(folder, flat=True) as dataset:
        cost = _cost(dataset)
        if "topology" in dataset:
            _only_for("fields", truth=truth, training=training, withheld=withheld)
            sections, record = _conformers(folder, dataset, against, energy)
        else:
            _only_for("conformers", energy=energy)
            sections, record = _given(folder, dataset, withheld)
            if not sections or any(name is not None for name in (against, truth, training)):
                more, numbers_of_fields = _fields(folder, dataset, against, truth, training)
                sections, record = [*sections, *more], record | numbers_of_fields
    out = folder / FOLDER if folder.is_dir() else folder.parent / FOLDER
    sections = [*sections, cost]
    page = write_page(out / PAGE, f"Verification of {folder.name or folder.resolve().name}", sections)
    numbers = write_record(out / RECORD, record)
    return "\n".join([*_text(sections), f"page: {page}", f"numbers: {numbers}"])


def _only_for(kind: str, **given: str | None) -> None:
    wrong = [f"--{name}" for name, value in given.items() if value is not None]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: only for {kind}; leave it out")


def _conformers(
    folder: Path, dataset: xr.Dataset, against: str | None, energy: str | None
) -> tuple[list[Section], dict[str, Any]]:
    file = folder / "samples.h5" if folder.is_dir() else folder
    own = load_conformers(file, f"samples of {folder.name}")
    reference = Path(against) if against is not None else run_model(folder, stored_config(folder, dataset)) / HELD_OUT
    if not reference.is_file():
        raise ValueError(f"{reference}: no such file; give reference conformers with --against FILE")
    real = load_conformers(reference, reference.name, file.with_name(TOPOLOGY))
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
    return posterior_sections(folder, dataset, run_model(folder, config), config.observations, withheld)


def _fields(
    folder: Path, dataset: xr.Dataset, against: str | None, truth: str | None, training: str | None
) -> tuple[list[Section], dict[str, Any]]:
    model = run_model(folder, stored_config(folder, dataset))
    layout = _variables(dataset)
    compared = compare(dataset, model, against=against) if against is not None or has_statistics(model) else []
    if not compared and truth is None and training is None:
        raise ValueError(f"model {find_model(model).name} has no statistics; give --against, --truth or --training FILE")
    read = [None if name is None else fields_like(find_model(model), name).fields for name in (against, truth, training)]
    return field_sections(dataset, layout, compared, *read)


def _variables(dataset: xr.Dataset) -> tuple[Any, ...]:
    from ...schema.layout import Variable

    sample_dim = str(dataset.attrs["sample_dim"])
    names = str(dataset.attrs["variables"]).split()
    variables = [Variable(name, tuple(str(dim) for dim in dataset[name].dims if dim != sample_dim)) for name in names]
    fields = tuple(variable for variable in variables if len(variable.dims) == 2 and "atom" not in variable.dims)
    if not fields:
        listed = ", ".join(f"{variable.name} over {' x '.join(variable.dims)}" for variable in variables)
        raise ValueError(f"the samples have no fields over two dimensions to verify, only {listed}")
    return fields


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
