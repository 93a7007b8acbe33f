"""The configuration of a run as one validated record, with the same keys in run.toml, on the command line and in Python."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ..integrators.catalogue import Integrator, find
from ..solvers.baselines.settings import POSITION_ONLY
from .chain import Auto, ChainConfig, PhaseConfig
from .combinations import mistakes_together
from .condition import RunCondition
from .density import DensityConfig
from .domain import DomainConfig
from .legacy import upgraded_run
from .limits import LARGEST_ID, MOST, MOST_SAMPLES, MOST_THREADS, Count, Many
from .observations import ObservationsConfig
from .paths import PathName
from .rollout import RolloutConfig
from .samples import INDEPENDENT_KEYS as INDEPENDENT_KEYS
from .samples import parse_ids as parse_ids
from .solver import SolverConfig
from .statistics import StatisticsConfig
from .steering import SteeringConfig
from .validation import Record, build


class GridConfig(Record):
    """The grid of points in time.

    Attributes:
        kind: "piadm" for the published grid, whose steps shrink in the last block; "log-snr"; "karras"; or "power" for a
            distance to the end like (1 - u)^`exponent` in the integrator's own time.
        steps: number of steps; the kind "piadm" ignores it. "auto" takes the number that the model's card recommends, or 48.
            For collocation it is the number of points; "auto" takes as many as the tolerance needs if the model was probed, and
            then chooses `teleport` too; otherwise it takes 8 for every digit of the tolerance.
        calls: number of network calls, instead of `steps`.
        step: step of the kind "piadm", in forward time.
        block: length of its blocks, in forward time.
        exponent: exponent of the kind "power".
        horizon: first point, as forward time theta; "auto" takes the model's.
        delta: last point (early stopping), as forward time theta; "auto" takes the model's.
        teleport: omit the points with a larger ratio of noise to signal than this; the flow of the Gaussian replaces them.
        blocks: number of blocks; "auto" keeps the published blocks for a solver without reference, and makes one block
            otherwise.
        cut: "even" makes blocks of nearly the same number of points, "lambda" blocks that need nearly the same number of
            sweeps.
    """

    kind: Literal["piadm", "log-snr", "karras", "power"] = "log-snr"
    steps: int | Auto = "auto"
    calls: Count | None = None
    step: float = Field(0.0625, ge=1e-5)
    block: float = Field(1.0, ge=1e-5)
    exponent: float = Field(2.0, gt=0, le=100)
    horizon: float | Auto = "auto"
    delta: float | Auto = "auto"
    teleport: float | None = Field(None, gt=0)
    blocks: int | Auto = "auto"
    cut: Literal["even", "lambda"] = "lambda"

    @field_validator("steps", "horizon", "delta", "blocks")
    @classmethod
    def _positive(cls, value: float | str) -> float | str:
        if isinstance(value, int | float) and value <= 0:
            raise ValueError("must be positive or 'auto'")
        if isinstance(value, int | float) and value > MOST:
            raise ValueError(f"must be at most {MOST} or 'auto'")
        return value

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.calls is not None and self.kind == "piadm":
            raise ValueError("calls: the published grid follows from step and block; leave calls out, or use another kind")
        return self


class CorrectorConfig(Record):
    """The underdamped Langevin corrector of PIADM-ODE, which follows every block.

    With "auto" the friction is 2 sqrt(L) and the length 1 / sqrt(L), where 1 / L is the reference's smallest variance at the
    block's end.
    """

    enabled: bool = False
    friction: float | Auto = "auto"
    length: float | Auto = "auto"
    steps: Count = 8
    blocks: Count = 1


class ComputeConfig(Record):
    """Where and how a run computes. These keys change a sample by rounding only, that of `autocast` in the network included.

    Attributes:
        time_ranks: number of ranks that share a sample's time axis; "auto" takes as many as remain when every sample has a rank.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: precision of the states.
        model_batch: largest number of rows of one network call; "auto" chooses it from a few timed calls.
        in_flight: number of samples of a batch solved at once; when a sample is done, the next takes its place. By default all
            are solved at once.
        threads: threads per rank; "auto" takes the launcher's share of the cores.
        autocast: "bfloat16" runs the network in that precision.
        compile: mode of torch.compile for the network; "reduce-overhead" records CUDA graphs.
    """

    time_ranks: int | Auto = "auto"
    device: str = "auto"
    precision: Literal["float32", "float64"] = "float32"
    model_batch: Many | Auto = "auto"
    in_flight: Many | None = None
    threads: int | Auto = "auto"
    autocast: Literal["off", "bfloat16"] = "off"
    compile: Literal["off", "default", "reduce-overhead"] = "off"

    @field_validator("time_ranks", "threads")
    @classmethod
    def _positive(cls, value: int | str, info: ValidationInfo) -> int | str:
        most = MOST_THREADS if info.field_name == "threads" else MOST
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1 or 'auto'")
        if isinstance(value, int) and value > most:
            raise ValueError(f"must be at most {most} or 'auto'")
        return value


class OutputConfig(Record):
    """The output of a run.

    Attributes:
        batch: number of samples that are solved together and stored in one shard; "auto" takes the fastest number, but no more
            than are drawn in half a minute or fit into a quarter of the memory.
        compression: compression of the arrays.
        members: store the samples; without them only their statistics are kept.
        format: "hdf5" for shards with an index, or "zarr" for one Zarr store.
        log_interval: seconds between two lines of progress.
    """

    batch: Many | Auto = "auto"
    compression: Literal["zlib", "none"] = "zlib"
    members: bool = True
    format: Literal["hdf5", "zarr"] = "hdf5"
    log_interval: float = Field(30.0, gt=0)


class RunConfig(Record):
    """The configuration of a run.

    Attributes:
        model: name of a shipped model, or a model folder.
        samples: number of samples, for each condition where there are several; their ids are 0 .. samples-1.
        seed: the number from which all noise is derived.
        out: folder of the run.
        only: ids of the samples to draw, instead of 0 .. samples-1. A sample with the same id is the same in any run.
        allow_code: let a model folder run its own code, that is, import or unpickle a network.
        observations: draw from the posterior given these observations.
        steering: weight samples by a potential on their fields, and resample them in groups.
    """

    model: PathName
    samples: Many = 8
    seed: int = Field(0, ge=0, lt=2**63)
    out: PathName = "run"
    only: tuple[int, ...] | None = None
    allow_code: bool = False
    condition: RunCondition = RunCondition()
    rollout: RolloutConfig = RolloutConfig()
    domain: DomainConfig = DomainConfig()
    chain: ChainConfig = ChainConfig()
    phase: PhaseConfig = PhaseConfig()
    grid: GridConfig = GridConfig()
    solver: SolverConfig = SolverConfig()
    corrector: CorrectorConfig = CorrectorConfig()
    density: DensityConfig = DensityConfig()
    compute: ComputeConfig = ComputeConfig()
    output: OutputConfig = OutputConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    observations: ObservationsConfig | None = None
    steering: SteeringConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _today(cls, values: Any) -> Any:
        return upgraded_run(values) if isinstance(values, dict) else values

    @field_validator("only")
    @classmethod
    def _ids(cls, ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if ids is not None and (len(ids) == 0 or min(ids) < 0 or len(set(ids)) != len(ids)):
            raise ValueError("sample ids must be distinct and not negative, at least one")
        if ids is not None and (max(ids) > LARGEST_ID or len(ids) > MOST_SAMPLES):
            raise ValueError(f"sample ids go up to {LARGEST_ID}, and a run has at most {MOST_SAMPLES}")
        return ids

    @model_validator(mode="after")
    def _together(self) -> Self:
        if mistakes := mistakes_together(self):
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def method(self) -> Integrator:
        """The record of the integrator; one that is left open takes one step at a time where others read the position alone."""
        alone = self.corrector.enabled or self.solver.kind in POSITION_ONLY or self.steering is not None
        return find("gaussian") if alone and self.chain.integrator == "auto" and self.chain.eta else self.chain.method

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the samples to draw, in increasing order: member m of condition k of K is m K + k.

        Forecasts of L leads have the ids (m K + k) L + l - 1 for lead l.
        """
        members = range(self.samples) if self.only is None else sorted(self.only)
        count = self.condition.count * (self.rollout.leads or 1)
        return tuple(member * count + k for member in members for k in range(count))

    def replace(self, **changes: Any) -> RunConfig:
        """Return this configuration with some keys changed; sections are given as dictionaries of their changed keys."""
        values = self.model_dump()
        for key, value in changes.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) else value
        return build(RunConfig, values)
