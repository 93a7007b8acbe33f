"""The samples of fields to train on: repetitions are left out, and parts are held out by file or by fraction."""

from __future__ import annotations

import logging

import numpy as np

from .dates import first_alike, text_of
from .inputs import HoldOut, parts_by_file, parts_by_fraction
from .reading import RawFields, taken

log = logging.getLogger(__name__)


def split(config: HoldOut, raw: RawFields) -> tuple[RawFields, np.ndarray]:
    """Samples without repetitions, and the part of each [n]. Raises ValueError for samples in training and held-out files."""
    by_file = bool(config.validation_files or config.test_files)
    dated = not isinstance(raw.dates, str)
    part = parts_by_file(config, raw.names, raw.file) if by_file else np.full(len(raw.file), "train", dtype=object)
    first = first_alike(raw.values, None if isinstance(raw.dates, str) else raw.dates.key)
    again = np.flatnonzero(first != np.arange(len(first)))
    leaked = again[part[again] != part[first[again]]]
    if len(leaked):
        names = sorted({raw.names[raw.file[k]] for k in (*leaked, *first[leaked])})
        raise ValueError(
            f"{len(leaked)} samples{_span(raw, leaked)} stand both in {' and '.join(names)}, which are different parts of the "
            "data (training, validation, test); hold out other files"
        )
    if len(again):
        names = sorted({raw.names[raw.file[k]] for k in (*again, *first[again])})
        log.warning("%d samples%s of %s occur twice; each is used once", len(again), _span(raw, again), " and ".join(names))
        kept = np.flatnonzero(first == np.arange(len(first)))
        raw, part = taken(raw, kept), part[kept]
    if dated and by_file:
        _name_shared_dates(raw, part)
    if not by_file:
        order = np.arange(len(raw.file)) if isinstance(raw.dates, str) else raw.dates.key
        part = parts_by_fraction(config, order)
    return raw, part


def _name_shared_dates(raw: RawFields, part: np.ndarray) -> None:
    """Log dates that occur in training and held-out files with different fields, as in an ensemble."""
    if isinstance(raw.dates, str):
        return
    shared = np.isin(raw.dates.key, raw.dates.key[part == "train"]) & (part != "train")
    if shared.any():
        k = np.flatnonzero(shared)
        log.warning(
            "%d held-out samples%s have dates that are trained on too, with other fields: taken to be members of an ensemble",
            len(k),
            _span(raw, k),
        )


def _span(raw: RawFields, which: np.ndarray) -> str:
    """The first and the last date of samples, where they have any."""
    if isinstance(raw.dates, str):
        return ""
    keys = raw.dates.key[which]
    return f" ({text_of(keys.min())} to {text_of(keys.max())})"
