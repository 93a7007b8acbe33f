"""Transforms of single variables to nearly Gaussian values and back, so that samples keep bounds, skewness and dry days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from scipy.ndimage import gaussian_filter
from scipy.special import boxcox, expit, inv_boxcox, log_ndtr, logit, ndtri
from scipy.stats import boxcox_normmax, genpareto

from ..schema.layout import Coordinate

Kind = Literal["log", "sqrt", "logit", "boxcox", "quantile"]

KNOTS, TAIL, ATOM = 400, 0.01, 1e-3
"""Knots of a table of quantiles, the share of values in an extrapolated tail, and the least share at a bound that is an atom."""

BLUR = 2.0
"""Radius of the neighbourhood of a dry point, in points."""


class TransformConfig(BaseModel):
    """The transform of a variable by `kind`, with the bounds `lower` and `upper` that its values keep.

    "log", "sqrt" and "boxcox" need a lower bound (default 0), "logit" both (default 0 and 1). "quantile" maps quantiles to
    those of a normal distribution, with generalised Pareto tails where there is no bound; values at the lower bound itself, such
    as dry days, become an atom if there are many of them. `power` is that of "boxcox"; by default the most likely one is used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    lower: float | None = None
    upper: float | None = None
    power: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> TransformConfig:
        if self.power is not None and self.kind != "boxcox":
            raise ValueError(f"power belongs to 'boxcox', not to {self.kind!r}; leave it out")
        if self.upper is not None and self.kind not in ("logit", "quantile"):
            raise ValueError(f"{self.kind!r} has no upper bound; use 'logit' or 'quantile'")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        return self


@dataclass(frozen=True)
class Transform:
    """A monotone map of values to scores and back.

    `table` [k, 2] holds quantiles and their scores; `dry` [k, 2] blurred scores of points at the lower bound, and the scores
    assigned to them, below `atom`; `tails` are location, scale and shape of the lower and the upper one.
    """

    kind: Kind
    lower: float = -np.inf
    upper: float = np.inf
    power: float = 1.0
    atom: float = -np.inf
    table: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    dry: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    tails: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Return the scores of values [n, *grid], NaN where values are NaN; those of dry points follow from their neighbours."""
        x = values.astype(np.float64)
        if self.kind == "log":
            return np.log(x - self.lower)
        if self.kind == "sqrt":
            return np.sqrt(x - self.lower)
        if self.kind == "logit":
            return np.asarray(logit((x - self.lower) / (self.upper - self.lower)))
        if self.kind == "boxcox":
            return np.asarray(boxcox(x - self.lower, self.power))
        return self._quantile_scores(x)

    def values(self, scores: np.ndarray) -> np.ndarray:
        """Return the values of scores, float64, within the bounds."""
        z = scores.astype(np.float64)
        if self.kind == "log":
            x = self.lower + np.exp(z)
        elif self.kind == "sqrt":
            x = self.lower + np.square(z.clip(min=0))
        elif self.kind == "logit":
            x = self.lower + (self.upper - self.lower) * expit(z)
        elif self.kind == "boxcox":
            # beyond the end of its range the inverse is not defined
            end = z.clip(min=-1 / self.power) if self.power > 0 else z.clip(max=-1 / self.power) if self.power < 0 else z
            x = self.lower + inv_boxcox(end, self.power)
        else:
            x = self._quantile_values(z)
        return np.where(np.isnan(z), np.nan, x.clip(self.lower, self.upper))

    def _quantile_scores(self, x: np.ndarray) -> np.ndarray:
        quantiles, scores = self.table.T
        z = np.interp(x, quantiles, scores)
        for side, beyond in ((0, x < quantiles[0]), (1, x > quantiles[-1])):
            scale, shape = self.tails[side]
            if scale > 0 and beyond.any():
                # survival beyond the table, as logarithm: the score of the most extreme values stays finite
                excess = np.abs(x[beyond] - quantiles[-side])
                edge = log_ndtr(scores[0] if side == 0 else -scores[-1])
                log_share = (edge + genpareto.logsf(excess, shape, scale=scale)).clip(min=-700)
                z[beyond] = ndtri(np.exp(log_share)) * (1 if side == 0 else -1)
        z = np.where(np.isnan(x), np.nan, z)
        return self._wetted(x, z) if len(self.dry) else z

    def _wetted(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        at_bound = x <= self.lower
        z[at_bound] = np.interp(blurred(z, at_bound, self.atom)[at_bound], *self.dry.T)
        return z

    def _quantile_values(self, z: np.ndarray) -> np.ndarray:
        quantiles, scores = self.table.T
        x = np.interp(z, scores, quantiles)
        for side, beyond in ((0, z < scores[0]), (1, z > scores[-1])):
            scale, shape = self.tails[side]
            if scale > 0 and beyond.any():
                sign = 1 if side == 0 else -1
                share = np.exp(log_ndtr(sign * z[beyond]) - log_ndtr(sign * scores[-side]))
                x[beyond] = quantiles[-side] - sign * genpareto.isf(share, shape, scale=scale)
        return np.where(z <= self.atom, self.lower, x)


def pack_transform(name: str, transform: Transform) -> dict[str, Coordinate]:
    """Return the arrays of a variable's transform."""
    numbers = {key: float(getattr(transform, key)) for key in ("lower", "upper", "power", "atom")}
    attrs = {"long_name": f"transform of {name}", "kind": transform.kind, "tails": np.ravel(transform.tails), **numbers}
    tables = {f"transform_{name}": transform.table, f"transform_{name}_dry": transform.dry}
    return {
        key: Coordinate((f"{key}_knot", "quantile_and_score"), table if len(table) else np.full((1, 2), np.nan), attrs)
        for key, table in tables.items()
    }


def unpack_transform(name: str, arrays: Mapping[str, Coordinate]) -> Transform | None:
    """Return the transform of a variable that arrays describe, or None without one."""
    if f"transform_{name}" not in arrays or f"transform_{name}_dry" not in arrays:
        return None
    table, dry = (np.asarray(arrays[key].values, dtype=np.float64) for key in (f"transform_{name}", f"transform_{name}_dry"))
    attrs = arrays[f"transform_{name}"].attrs
    numbers = {key: float(attrs[key]) for key in ("lower", "upper", "power", "atom")}
    ends = [float(number) for number in np.ravel(attrs["tails"])]
    kept = [values[np.isfinite(values).all(1)] for values in (table, dry)]
    tails = (ends[0], ends[1]), (ends[2], ends[3])
    return Transform(attrs["kind"], **numbers, table=kept[0], dry=kept[1], tails=tails)


def blurred(z: np.ndarray, dry: np.ndarray, atom: float) -> np.ndarray:
    """Scores [n, *grid], the atom's at dry points, averaged over neighbours: low where rain is far away."""
    filled = np.where(dry | np.isnan(z), atom, z)
    found: np.ndarray = gaussian_filter(filled, (0.0, *[BLUR] * (z.ndim - 1)))
    return found


def transformed(
    names: Sequence[str], values: np.ndarray, configs: Mapping[str, TransformConfig], train: np.ndarray, mask: np.ndarray
) -> tuple[dict[str, Transform], np.ndarray]:
    """Fit the transforms of variables to the samples `train` and return them, with values [n, variables, *grid] as scores.

    `mask` [variables, *grid] is true where there are data. Raises ValueError for values outside the bounds.
    """
    if not configs:
        return {}, values
    transforms, scores = {}, values.copy()
    for k, name in enumerate(names):
        if name not in configs:
            continue
        transforms[name] = fit_transform(name, np.where(mask[k], values[train, k], np.nan), configs[name])
        with np.errstate(divide="ignore", invalid="ignore"):
            scores[:, k] = transforms[name].scores(values[:, k])
        lost = mask[k] & np.isfinite(values[:, k]) & ~np.isfinite(scores[:, k])
        if lost.any():
            raise ValueError(f"transforms: {name} has {int(lost.sum())} held-out values outside its bounds; give other bounds")
    return transforms, scores


def fit_transform(name: str, values: np.ndarray, config: TransformConfig) -> Transform:
    """Fit the transform of a variable to its values [n, *grid], NaN where missing; ValueError for values outside its bounds."""
    x = values[np.isfinite(values)].astype(np.float64)
    lower, upper = _bounds(config)
    # the closed forms are infinite at their bounds; the square root is not
    open_ends = config.kind in ("log", "logit", "boxcox")
    outside = (x <= lower) | (x >= upper) if open_ends else (x < lower) | (x > upper)
    if outside.any():
        ends = f"{'above' if open_ends else 'from'} {lower:g}"
        ends += f" and {'below' if open_ends else 'to'} {upper:g}" if np.isfinite(upper) else ""
        advice = "; use 'quantile', which keeps values at the bound, or another bound" if open_ends else "; give other bounds"
        raise ValueError(
            f"transforms: {name} has {int(outside.sum())} values that are not {ends}, as {config.kind!r} needs{advice}"
        )
    if config.kind == "quantile":
        return _fit_quantiles(values, x, lower, upper)
    power = 1.0
    if config.kind == "boxcox":
        some = x[:: max(1, len(x) // 20_000)] - lower
        power = float(boxcox_normmax(some, method="mle")) if config.power is None else config.power
    return Transform(config.kind, lower, upper, power)


def _bounds(config: TransformConfig) -> tuple[float, float]:
    default = {"quantile": (-np.inf, np.inf), "logit": (0.0, 1.0)}.get(config.kind, (0.0, np.inf))
    return (
        default[0] if config.lower is None else config.lower,
        default[1] if config.upper is None else config.upper,
    )


def _fit_quantiles(values: np.ndarray, x: np.ndarray, lower: float, upper: float) -> Transform:
    x = np.sort(x)
    count, at_bound = len(x), int((x <= lower).sum())
    atom = at_bound / count if at_bound > ATOM * count else 0.0
    rest = x[at_bound:] if atom else x
    start = TAIL if not np.isfinite(lower) else 0.0
    end = 1 - TAIL if not np.isfinite(upper) else 1.0
    shares = np.linspace(max(start, 0.5 / len(rest)), min(end, 1 - 0.5 / len(rest)), KNOTS)
    # the same quantile belongs to one score: values that occur often would have many
    table = np.column_stack([np.quantile(rest, shares), ndtri(atom + (1 - atom) * shares)])
    table = table[np.r_[True, np.diff(table[:, 0]) > 0]]
    bounded = np.isfinite([lower, upper])
    tails = _tail(rest, table[0, 0], 0, bounded[0]), _tail(rest, table[-1, 0], 1, bounded[1])
    threshold = float(ndtri(atom)) if atom else -np.inf
    plain = Transform("quantile", lower, upper, atom=threshold, table=table, tails=tails)
    if not atom:
        return plain
    whole = values.astype(np.float64)
    dry = whole <= lower
    wetness = np.sort(blurred(plain.scores(whole), dry, threshold)[dry])
    shares = (np.arange(KNOTS) + 0.5) / KNOTS
    pairs = np.column_stack([np.quantile(wetness, shares), ndtri(atom * shares)])
    pairs = pairs[np.r_[True, np.diff(pairs[:, 0]) > 0]]
    return Transform("quantile", lower, upper, atom=threshold, table=table, dry=pairs, tails=tails)


def _tail(x: np.ndarray, edge: float, side: int, bounded: np.bool) -> tuple[float, float]:
    """Scale and shape of the generalised Pareto distribution of values beyond `edge`, by probability-weighted moments.

    A bounded side has none (Hosking and Wallis 1987); shapes beyond one half have no variance and are not accepted.
    """
    excess = np.sort(np.abs(x[x > edge] - edge if side else edge - x[x < edge]))
    if bounded or len(excess) < 10 or excess[-1] <= 0:
        return 0.0, 0.0
    weights = 1 - (np.arange(len(excess)) + 0.65) / len(excess)
    first, second = excess.mean(), (weights * excess).mean()
    shape = float(np.clip(2 - first / (first - 2 * second), -0.5, 0.5))
    return float(first * (1 - shape)), shape
