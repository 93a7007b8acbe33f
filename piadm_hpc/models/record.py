"""The card of a model as a validated record, and its TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config.legacy import upgraded_card
from ..config.validation import parse_toml
from ..data.geometry import Wrap
from .config import ConformerNetworkConfig, NetworkConfig, SamplingConfig

FORMAT = 1
GIVEN = "condition_"  # before the names of the inputs of held-out conformers


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProcessCard(_Record):
    """The noising process by name, its parameters, and the times to start and stop at on its own clock."""

    name: str
    parameters: dict[str, float] = {}
    horizon: float = Field(gt=0)
    delta: float = Field(gt=0)
    log_snr_trained: tuple[float, float] | None = None


class VariableCard(_Record):
    """A generated variable and its CF attributes."""

    name: str
    dims: tuple[str, ...]
    units: str = "1"
    long_name: str | None = None
    standard_name: str | None = None
    cell_methods: str | None = None
    grid_mapping: str | None = None


class ReferenceCard(_Record):
    """The basis of the Gaussian reference, whose arrays are in reference.h5."""

    basis: Literal[
        "eof", "masked_eof", "regional_eof", "shared_eof", "harmonic_eof", "spherical", "fourier", "pixelwise", "isotropic"
    ]
    rank: int | None = None
    lmax: int | None = None
    split: int | None = None
    gauss_latitudes: bool = False


class MoleculeCard(_Record):
    """How conformers are aligned: superposed on the mean structure, or only centred. Their atoms are in topology.json."""

    alignment: Literal["superposed", "centred"]
    atoms: int


class InputCard(_Record):
    """An input of the condition: its name in condition files, its kind (see `data.conditions`), units, and how it is scaled."""

    name: str
    kind: Literal["lag", "map", "scalar", "class", "month", "ensemble_mean"]
    variable: str
    units: str = "1"
    dims: tuple[str, ...] = ()
    lag: int = 0
    classes: int = 0
    mean: float = 0.0
    scale: float = 1.0

    @property
    def spread(self) -> float:
        """Standard deviation of the values in training."""
        return self.scale

    @property
    def own_dims(self) -> dict[str, int]:
        """No input has dimensions beside those of the grid and of the conditions."""
        return {}


class ConditionCard(_Record):
    """The inputs of a conditional model, and the regression of its states on them, see `gaussian.regression`.

    `explained` is the share of the training states' variance that the mean given the condition has in cross-validation. With
    `dropout` above 0 the network was also trained without a condition.
    """

    inputs: tuple[InputCard, ...] = Field(min_length=1)
    shrinkage: float
    num_modes: int
    penalty: float
    explained: float
    dropout: float = 0.0


class ScoreCard(_Record):
    """Mean square denoising errors per entry by log-SNR on one set of states: the model's, the Gaussian's, and their ratio."""

    states: int
    log_snr: tuple[float, ...]
    denoiser: tuple[float, ...]
    gaussian: tuple[float, ...]
    ratio: tuple[float, ...]


class DensityCard(_Record):
    """Mean bits per dimension of a set of fields in physical units, with their standard error, and those of the Gaussian."""

    states: int
    bits_per_dimension: float
    standard_error: float
    gaussian: float


class DataCard(_Record):
    """The source of the training data, and the number of samples for each purpose."""

    source: str = ""
    licence: str = ""
    files: tuple[str, ...] = ()
    train: int = 0
    validation: int = 0
    test: int = 0
    excluded: int = 0
    calendar: str = ""


class TrainingCard(_Record):
    """How the weights were trained."""

    command: str = ""
    steps: int = 0
    best_step: int = 0
    minutes: float = 0.0
    parameters: int = 0
    config: dict[str, Any] = {}


class Card(_Record):
    """Everything about a model that is not an array.

    Dimensions in `leading`, levels and steps, precede those of the grid in the variables that have them. `auxiliary` names
    further coordinates of the samples, which are in reference.h5 too. `scores` are denoising errors measured after training;
    `densities` are bits per dimension of sets of data, and `samples` scores of a run, written by `piadm report --card`.
    """

    format: int
    name: str
    title: str = ""
    version: str
    prediction: str
    normalisation: str
    coordinates: str = "reference.h5"
    anomaly: str = "none"
    wrap: Wrap = True
    process: ProcessCard
    variables: tuple[VariableCard, ...] = Field(min_length=1)
    leading: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    reference: ReferenceCard
    molecule: MoleculeCard | None = None
    condition: ConditionCard | None = None
    network: NetworkConfig | ConformerNetworkConfig | None = None
    sampling: SamplingConfig = SamplingConfig()
    data: DataCard = DataCard()
    training: TrainingCard = TrainingCard()
    scores: dict[str, ScoreCard] = {}
    densities: dict[str, DensityCard] = {}
    samples: dict[str, Any] = {}
    sha256: dict[str, str]

    @property
    def grid(self) -> tuple[str, ...]:
        """The dimensions of the grid: rows and columns, or cells alone."""
        return tuple(dim for dim in self.variables[0].dims if dim not in self.leading)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """The arrays in reference.h5 that are coordinates of the samples."""
        return (*self.grid, *self.leading, *self.auxiliary)


def write_card(path: Path, card: Card) -> None:
    """Write a card as a TOML file; fields without a value are left out."""
    path.write_text(tomli_w.dumps(card.model_dump(mode="json", exclude_none=True)))


def read_card(path: Path) -> Card:
    """Read a card from a TOML file; ValueError naming the file and every mistake in it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a model folder holds card.toml, reference.h5 and usually weights.safetensors")
    try:
        content = parse_toml(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    if content.get("format") != FORMAT:
        raise ValueError(f"{path}: model format {content.get('format')!r} is unknown here; this version reads format {FORMAT}")
    try:
        return Card.model_validate(upgraded_card(content))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"{path}: " + "; ".join(lines)) from None
