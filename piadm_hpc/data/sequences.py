"""Sequences: consecutive samples in time as one event, with the steps among the channels of each variable."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..schema.layout import STEP, Coordinate, Layout, channel_slices
from .dates import Dates
from .normalise import Normalisation

log = logging.getLogger(__name__)

NEAR = 1.5
"""Multiple of the usual time step from which there is a gap between two samples."""


def starts_of(dates: Dates | str, file: np.ndarray, members: np.ndarray, length: int, stride: int) -> np.ndarray:
    """Return the samples [windows, length] of all sequences among the `members` [k], by index, without gaps in time.

    Sequences begin `stride` samples apart, counted anew after every gap. Without dates the samples of each file are taken to be
    consecutive.
    """
    if isinstance(dates, str):
        order, broken = members, np.diff(file[members]) != 0
    else:
        # an ensemble has a date several times: then every file and every member is a series of its own
        once = len(np.unique(dates.key[members])) == len(members)
        series = np.zeros_like(members) if once else dates.series[members]
        places = np.lexsort((dates.day[members], series))
        order, series, day = members[places], series[places], dates.day[members][places]
        apart, same = np.diff(day), np.diff(series) == 0
        usual = float(np.median(apart[same])) if same.any() else np.inf
        broken = ~same | (apart > NEAR * usual) | (apart <= 0)
    begins = np.concatenate([[0], np.flatnonzero(broken) + 1])
    ends = np.concatenate([begins[1:], [len(order)]])
    first = [np.arange(a, b - length + 1, stride) for a, b in zip(begins, ends, strict=True)]
    windows = np.concatenate([np.empty(0, dtype=np.int64), *first])[:, None] + np.arange(length)
    found: np.ndarray = order[windows.astype(np.int64)]
    return found


def require_sequences(windows: np.ndarray, members: np.ndarray, length: int) -> None:
    """Raise ValueError if fewer than two sequences [windows, length] came of the samples `members`; log how many are left out."""
    if len(windows) < 2:
        raise ValueError(
            f"{len(members)} training samples hold {len(windows)} sequences of {length} consecutive times; at least 2 are "
            "needed: take shorter ones (sequence), let them overlap (stride = 1), or hold out fewer"
        )
    left_out = len(np.setdiff1d(members, windows))
    if left_out:
        log.warning("%d of %d training samples are in no sequence of %d without a gap in time", left_out, len(members), length)


def joined(states: Tensor, windows: np.ndarray, channels: Mapping[str, slice]) -> Tensor:
    """Return states [n, channels, *grid] of single times as those of sequences [windows, steps * channels, *grid].

    The steps of a variable follow each other, each with its levels.
    """
    stacked = states[torch.from_numpy(windows)]
    return torch.cat([stacked[:, :, part].flatten(1, 2) for part in channels.values()], dim=1)


def first_times(layout: Layout) -> np.ndarray:
    """Return the channels of the first step of every variable, by number; all of them if there are no steps."""
    sizes = {variable.name: layout.channels(variable) for variable in layout.variables}
    rows = []
    for variable, part in zip(layout.variables, channel_slices(sizes).values(), strict=True):
        channels = np.arange(part.start, part.stop)
        steps = sizes[variable.name][0] if STEP in variable.dims else 1
        rows.append(channels[: len(channels) // steps])
    return np.concatenate(rows)


def repeated(normalisation: Normalisation, length: int) -> Normalisation:
    """Return the normalisation of sequences of so many steps, from that of single times."""
    rows = np.concatenate([np.tile(np.arange(part.start, part.stop), length) for part in normalisation.channels.values()])
    labels = normalisation.labels
    shapes = {name: (length, *normalisation.shapes.get(name, ())) for name in normalisation.names}
    mean, scale, mask = (values[rows] for values in (normalisation.mean, normalisation.scale, normalisation.mask))
    plain = Normalisation(normalisation.names, mean, scale, mask, shapes=shapes)
    known = {new: labels[row] for new, row in zip(plain.labels, rows, strict=True)}
    transforms = {new: normalisation.transforms[old] for new, old in known.items() if old in normalisation.transforms}
    return Normalisation(normalisation.names, mean, scale, mask, transforms, shapes)


def step_coordinate(dates: Dates | str, windows: np.ndarray) -> Coordinate:
    """Return the coordinate of the steps: their numbers, and the time and the calendar months from one to the next, if known."""
    length = windows.shape[1]
    attrs: dict[str, object] = {"long_name": f"number of the time in a sequence of {length} consecutive ones", "units": "1"}
    if not isinstance(dates, str) and len(windows):
        months = dates.month[windows]
        steps = np.unique(np.diff(months, axis=1) % 12)
        if len(steps) == 1:
            attrs["months_per_step"] = int(steps[0])
        if len(np.unique(months[:, 0])) == 1:
            attrs["first_month"] = int(months[0, 0])
        attrs["days_per_step"] = round(float(np.median(np.diff(dates.day[windows], axis=1))), 6)
        attrs["calendar"] = dates.calendar
    return Coordinate((STEP,), np.arange(length, dtype=np.int32), attrs)
