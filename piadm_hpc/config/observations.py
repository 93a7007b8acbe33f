"""The section of a run's configuration that names observations; samples are then drawn from the posterior."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from .paths import PathName
from .plugins import PluginName
from .validation import Record


class ObservationsConfig(Record):
    """Observations, and the score of the posterior.

    Attributes:
        file: the observations, a table (CSV or NetCDF) or fields; see the page on observations.
        std: standard deviation of the errors if the file has none, in the units of the values.
        select: one value along each further dimension of a NetCDF file, such as a date.
        steps: first and last step of the mean over time that rows observe which name no steps, for models of sequences.
        cells: what the values of a field are: "points", "boxes" (means over its cells), or "auto", boxes where the field is
            coarser than the model's.
        nearest: take the nearest grid point instead of bilinear interpolation.
        absolute: values are absolute, and the model is one of anomalies: subtract its climatology.
        month: month (1 to 12) of the climatology to subtract, for a model of anomalies from monthly means.
        operator: "package.module:callable", a differentiable function of the fields that gives the observed values.
        score: "kalman" (linear observations), "mmps" (any, with derivatives of the network), or for comparison "sda", "dps"
            and "pigdm"; "auto" is kalman for linear observations and mmps for a function.
        gamma: the constant of sda.
        sha256: digest of the observations, which a run fills in; other observations are then refused.
    """

    file: PathName
    std: float | None = Field(None, gt=0)
    select: dict[str, float | datetime | date | str] = Field(default_factory=dict)
    steps: tuple[int, int] | None = None
    cells: Literal["auto", "points", "boxes"] = "auto"
    nearest: bool = False
    absolute: bool = False
    month: int | None = Field(None, ge=1, le=12)
    operator: PluginName | None = None
    score: Literal["auto", "kalman", "mmps", "sda", "dps", "pigdm"] = "auto"
    gamma: float = Field(0.01, ge=0)
    sha256: str | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        mistakes = []
        if self.month is not None and not self.absolute:
            mistakes.append("month: only for observations.absolute; leave it out")
        if self.operator is not None and self.score == "kalman":
            mistakes.append("score = 'kalman' needs linear observations; use mmps with an operator")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self
