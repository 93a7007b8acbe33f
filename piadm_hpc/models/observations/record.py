"""The observations of a run as a file in its folder, from which the run can be verified later."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...data.observations import ObservationTable
from ...schema.layout import Coordinate
from ...store.arrays import read_arrays, write_arrays

FILE = "observations.nc"
DIM = "observation"


def write_table(path: Path, table: ObservationTable) -> Path:
    """Write the rows of a table, one array a column, and return the path."""
    columns = {**table.columns, "label": table.labels}
    arrays = {name: Coordinate((DIM,), _stored(values)) for name, values in columns.items()}
    title = "observations that the samples in this folder are conditioned on"
    write_arrays(path, arrays, {"title": title, "sha256": table.sha256})
    return path


def read_table(path: Path) -> ObservationTable:
    """Read a file written by `write_table`; ValueError for a file that is damaged or holds something else."""
    arrays, attrs = read_arrays(path)
    columns = {name: _loaded(array.values) for name, array in arrays.items()}
    labels = columns.pop("label", None)
    if labels is None or "value" not in columns:
        raise ValueError(f"{path}: not the observations of a run")
    table = ObservationTable(columns, labels)
    if table.sha256 != attrs.get("sha256"):
        raise ValueError(f"{path}: the observations were changed after the run")
    return table


def _stored(values: np.ndarray) -> np.ndarray:
    return np.char.encode(values.astype(str), "utf-8") if values.dtype == object else values


def _loaded(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "SUO":
        return values
    return np.array([one.decode() if isinstance(one, bytes) else str(one) for one in values.tolist()], dtype=object)
