"""Area means that a model of anomalies takes as conditions: anomalies, which its climatology tells from absolute values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..schema.layout import Coordinate
from .anomalies import nearer_zero
from .grids import row_shares


def mean_anomalies(absolute: np.ndarray, apart: np.ndarray, removed: np.ndarray, grid: Mapping[str, Coordinate]) -> np.ndarray:
    """Area means [K] as the anomalies that a model takes, whose climatology is `removed` [1 or 12, lat, lon].

    `absolute` are the values as absolute ones in the model's units, `apart` the same as differences (1 degC is 1 K). Raises
    ValueError for values that are much nearer to the climatology's own area mean than to zero.
    """
    rows, coordinate = next(iter(grid.items()))
    shares = row_shares(rows, coordinate.values, coordinate.attrs)[:, None] * ~np.isnan(removed).any(0)
    normal = float((np.nan_to_num(removed).mean(0) * shares).sum() / shares.sum())
    anomalies = nearer_zero(absolute[:, None, None], apart[:, None, None], np.full((1, 1, 1), normal))
    if anomalies is False:
        raise ValueError(
            f"holds absolute values (mean {absolute.mean():.4g}), and the model takes the area mean of anomalies; subtract that "
            f"of its climatology ({normal:.4g} over the year), or write 'anomaly' into its long_name"
        )
    return apart if anomalies else absolute
