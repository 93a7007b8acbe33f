"""Inputs that are earlier fields of the model's own variables, and the month that follows them, from dated fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from .conditions import Input
from .dates import MONTH, Dates, dates_of, text_of
from .mistakes import few
from .sequences import NEAR


def with_earlier_fields(
    raw: xr.Dataset, inputs: Sequence[Input], grid: tuple[str, ...]
) -> tuple[xr.Dataset, dict[str, np.ndarray | str]]:
    """Return the decoded dataset, with inputs of the kinds "lag" and "month" made from any dated fields of the model's variable.

    Other inputs along the dates belong to the last field that is known. Also returns the calendar months of the fields of every
    such lag, or the reason why they are unknown. Raises ValueError for a variable without dates, for gaps in them, and
    for dates that occur twice.
    """
    dataset = xr.decode_cf(raw)
    lags = [given for given in inputs if given.kind == "lag" and given.name not in dataset.variables]
    if not lags or any(given.variable not in dataset for given in lags):
        return dataset, {}
    further = {str(dim) for given in lags for dim in dataset[given.variable].dims} - set(grid)
    dim = next(iter(further), "")
    longest = max(given.lag for given in lags)
    if len(further) != 1 or dim not in dataset.coords or dataset.sizes[dim] < max(2, longest):
        raise ValueError(
            f"{lags[0].variable} needs one dimension with at least {max(2, longest)} dates, {longest} before each forecast; "
            f"beside its grid it has {', '.join(f'{name} of {dataset.sizes[name]}' for name in sorted(further)) or 'none'}"
        )
    dates = dates_of(raw, [dim], lags[0].variable)
    order = np.argsort(dataset[dim].values if isinstance(dates, str) else dates.key, kind="stable")
    dates = dates if isinstance(dates, str) else dates.taken(order)
    if longest > 1:
        _require_consecutive(dates, dim)
    fields = dataset.isel({dim: order})
    count = fields.sizes[dim] - longest + 1
    made, months = {}, {}
    for given in lags:
        those = slice(longest - given.lag, longest - given.lag + count)
        made[given.name] = fields[given.variable].isel({dim: those}).assign_coords({dim: fields[dim][longest - 1 :]})
        months[given.name] = dates if isinstance(dates, str) else dates.month[those]
    for given in inputs:
        if given.name in dataset.variables:
            made[given.name] = fields[given.name].isel({dim: slice(longest - 1, None)}, missing_dims="ignore")
        elif given.kind == "month":
            made[given.name] = xr.DataArray(_next_month(dates, dim)[longest - 1 :], {dim: fields[dim][longest - 1 :]})
    return xr.Dataset(made), months


def _require_consecutive(dates: Dates | str, dim: str) -> None:
    """Raise ValueError for dates that occur twice or leave some out, where earlier fields would not be those that lags name."""
    if isinstance(dates, str):
        return
    apart = np.diff(dates.day)
    usual = float(np.median(apart))
    broken = np.flatnonzero((apart <= 0) | (apart > NEAR * usual))
    if len(broken):
        places = few([f"{text_of(dates.key[k])} to {text_of(dates.key[k + 1])}" for k in broken], 3)
        raise ValueError(
            f"the fields do not follow each other along {dim}: {places}, where steps are {usual:g} days; keep one field of every "
            "date and leave none out, or give the inputs by their names"
        )


def _next_month(dates: Dates | str, dim: str) -> np.ndarray:
    """The calendar month [n] that follows each date, one step of the series later."""
    if isinstance(dates, str):
        raise ValueError(f"{dim} holds no dates ({dates}), so the month of the forecast is unknown; give the input of kind month")
    steps = np.diff(dates.key // MONTH)
    if (steps != steps[0]).any() or steps[0] < 1:
        raise ValueError(f"{dim} has gaps, or steps shorter than a month: give the inputs by their names")
    return np.asarray((dates.month - 1 + steps[0]) % 12 + 1)
