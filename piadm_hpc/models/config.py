"""Configuration of training runs as validated frozen records: data, reference, network, noise, optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..config.chain import PhaseConfig
from ..config.paths import PathName
from ..config.validation import build, parse_toml, read
from ..data.conditions import ConditionConfig
from ..data.energies import EnergyConfig
from ..data.frame_inputs import FrameConditionConfig
from ..data.gridded import DataConfig
from ..data.trajectories import TrajectoryConfig
from ..integrators.catalogue import find


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class NetworkConfig(_Record):
    """Size of the U-Net: channels at half resolution, their multiple at each level, and features of the noise level."""

    width: int = Field(default=32, ge=4)
    multipliers: tuple[int, ...] = Field(default=(1, 2, 2), min_length=1)
    embedding: int = Field(default=128, ge=4)
    static_maps: int = Field(default=4, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @field_validator("multipliers")
    @classmethod
    def _positive(cls, multipliers: tuple[int, ...]) -> tuple[int, ...]:
        if min(multipliers) < 1:
            raise ValueError(f"multipliers must be at least 1, got {multipliers}")
        return multipliers


class ConformerNetworkConfig(_Record):
    """Size of a network of atoms: features, blocks or layers, and features of the noise level; the defaults depend on `kind`.

    "pairs" is a perceptron over all pairs of atoms at once, "messages" an equivariant network of messages between atoms.
    """

    kind: Literal["pairs", "messages"] = "pairs"
    width: int = Field(default=512, ge=8)
    depth: int = Field(default=6, ge=1)
    embedding: int = Field(default=128, ge=4)

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, values: Any) -> Any:
        of_messages = isinstance(values, dict) and values.get("kind") == "messages"
        return {"width": 64, "depth": 4, **values} if of_messages else values


class ReferenceConfig(_Record):
    """Basis of the Gaussian reference and its sizes.

    "smooth" is for any grid, with gaps and of any number of variables: as many as `modes` EOFs of a covariance that is
    regularised by distance, so that there are more of them than samples. "harmonic_eof" is for global fields of one
    variable: modes of the spherical harmonics below degree `split`, and one variance per degree from there to `lmax`
    (default: all degrees that the grid resolves). "auto" takes that on global grids without gaps, "eof" where a rank is
    given, and "smooth" elsewhere. "eof" has `rank` modes ("auto": the rank of the best held-out likelihood up to `max_rank`)
    and one variance for all other directions. The others are "spherical", "fourier", "pixelwise" and "isotropic".
    """

    basis: Literal["auto", "smooth", "eof", "harmonic_eof", "spherical", "fourier", "pixelwise", "isotropic"] = "auto"
    modes: int = Field(default=1000, ge=1)
    rank: int | Literal["auto"] = "auto"
    max_rank: int = Field(default=128, ge=1)
    lmax: int | None = Field(default=None, ge=1)
    split: int = Field(default=28, ge=1)


class OptimiserConfig(_Record):
    """AdamW with warm-up and cosine decay, an exponential moving average, and early stopping by validation.

    `precision` is that of the network's matrix products in training; bfloat16 is several times as fast on processors with
    hardware support for it.
    """

    steps: int = Field(default=10_000, ge=1)
    batch: int = Field(default=16, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    warm_up: int = Field(default=300, ge=0)
    weight_decay: float = Field(default=0.02, ge=0)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    validate_every: int = Field(default=500, ge=1)
    patience: int = Field(default=8, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    max_minutes: float = Field(default=float("inf"), gt=0)


class NoiseConfig(_Record):
    """Noising process, and distribution of the log-SNR in training.

    The share `spread` of the levels is uniform between `lowest` and `highest`; the others are drawn where the network has
    most to explain. With the process "psld" the network has position and momentum, for integrators of phase space alone;
    its parameters are in the section `phase`.
    """

    process: Literal["ou", "vp", "edm", "flow", "psld"] = "ou"
    lowest: float = -10.0
    highest: float = 9.0
    spread: float = Field(default=0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> NoiseConfig:
        if not self.lowest < self.highest:
            raise ValueError(f"lowest log-SNR {self.lowest} must be below highest {self.highest}")
        return self


class SamplingConfig(_Record):
    """A model's own defaults for runs: `chain.eta`, the flow's `chain.integrator`, and `grid.steps` of chains."""

    eta: float | None = Field(default=None, ge=0, le=1)
    flow: str | None = None
    steps: int | None = Field(default=None, ge=1)

    @field_validator("flow")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return None if name is None else find(name).name


class TrainConfig(_Record):
    """A training run on gridded fields that writes the model folder `output`.

    `network = "none"` fits the Gaussian reference alone. With `condition` the model is one of the fields given its inputs.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    output: PathName
    title: str = ""
    seed: int = 0
    data: DataConfig
    reference: ReferenceConfig = ReferenceConfig()
    network: NetworkConfig | Literal["none"] = NetworkConfig()
    noise: NoiseConfig = NoiseConfig()
    phase: PhaseConfig = PhaseConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    sampling: SamplingConfig = SamplingConfig()
    condition: ConditionConfig | None = None
    horizon: float | None = Field(default=None, gt=0)
    delta: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _bases_fit(self) -> TrainConfig:
        several = len(self.data.variables) > 1
        if several and self.reference.basis in ("spherical", "fourier", "harmonic_eof"):
            raise ValueError(f"basis {self.reference.basis!r} takes one variable, got {len(self.data.variables)}; use 'smooth'")
        if (self.reference.basis == "spherical") != self.data.area_weights:
            raise ValueError("basis 'spherical' and data.area_weights = true go together: set both or neither")
        return self

    @model_validator(mode="after")
    def _phase_is_used(self) -> TrainConfig:
        if self.phase != PhaseConfig() and self.noise.process != "psld":
            raise ValueError(f"the section phase belongs to noise.process = 'psld', not {self.noise.process!r}; leave one out")
        return self

    @property
    def process_parameters(self) -> dict[str, float]:
        """Parameters of the noising process, as on the card."""
        return self.phase.model_dump() if self.noise.process == "psld" else {}


class ConformerTrainConfig(_Record):
    """A training run on conformers of one molecule that writes the model folder `output`.

    `network = "none"` fits the Gaussian reference alone. With `energy` the network learns from the energy of the training frames
    as well, which must be in equilibrium. `initial` is a model, by its name or folder, whose training is continued with these
    frames: its network, reference and coordinates are kept. With `condition` the model is one of conformers given its inputs.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    output: PathName
    title: str = ""
    seed: int = 0
    data: TrajectoryConfig
    initial: str | None = None
    energy: EnergyConfig | None = None
    network: ConformerNetworkConfig | Literal["none"] = ConformerNetworkConfig()
    noise: NoiseConfig = NoiseConfig(lowest=-8.0, highest=11.0, spread=0.5)
    optimiser: OptimiserConfig = OptimiserConfig(batch=1024, rate=1e-3, warm_up=200, weight_decay=0.01)
    sampling: SamplingConfig = SamplingConfig()
    condition: FrameConditionConfig | None = None
    held_out_frames: int = Field(default=10_000, ge=0)
    stored: Literal["float32", "float16"] = "float32"
    horizon: float | None = Field(default=None, gt=0)
    delta: float | None = Field(default=5e-5, gt=0)

    @field_validator("noise")
    @classmethod
    def _of_positions(cls, noise: NoiseConfig) -> NoiseConfig:
        if noise.process == "psld":
            raise ValueError("networks of conformers have positions alone; give noise.process ou, vp, edm or flow")
        return noise

    @model_validator(mode="after")
    def _something_learns(self) -> ConformerTrainConfig:
        if self.initial is not None and "network" in self.model_fields_set:
            raise ValueError(f"network: it is that of initial = {self.initial!r}; leave the section out")
        if self.energy is not None and self.network == "none":
            raise ValueError("energy: the reference alone does not learn from it; leave one of energy and network = 'none' out")
        if self.condition is not None and self.initial is not None:
            raise ValueError("condition: only models without one can be continued; leave one of condition and initial out")
        if self.condition is not None and self.energy is not None:
            raise ValueError("energy: U/kT is that of one temperature and all conformers; leave one of energy and condition out")
        return self

    @property
    def process_parameters(self) -> dict[str, float]:
        """Parameters of the noising process, as on the card: none."""
        return {}


def load_config(path: str | Path, changes: Iterable[tuple[str, Any]] = ()) -> TrainConfig | ConformerTrainConfig:
    """Read a training configuration from TOML, with dotted changes; the section `data` tells fields and trajectories apart.

    Raises ConfigError listing every mistake.
    """
    if _names_trajectories(Path(path)):
        return read(ConformerTrainConfig, path, changes)
    return read(TrainConfig, path, changes)


def parsed(values: Mapping[str, Any]) -> TrainConfig | ConformerTrainConfig:
    """Return the training configuration with these keys; ConfigError lists every mistake."""
    if _of_trajectories(values):
        return build(ConformerTrainConfig, dict(values))
    return build(TrainConfig, dict(values))


def _names_trajectories(path: Path) -> bool:
    try:
        return _of_trajectories(parse_toml(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False  # the reader of the configuration reports the mistake


def _of_trajectories(values: Mapping[str, Any]) -> bool:
    data = values.get("data", {})
    return isinstance(data, Mapping) and ("trajectories" in data or "topology" in data)
