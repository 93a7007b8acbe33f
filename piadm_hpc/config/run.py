"""A run as one validated record: the same words in run.toml, on the command line and in Python."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..integrators.catalogue import INTEGRATORS, Integrator, find
from ..solvers.baselines.settings import POSITION_ONLY
from .legacy import upgraded_run
from .plugins import PluginName
from .solver import SolverConfig
from .validation import ConfigError, Record, build

Auto = Literal["auto"]


class ChainConfig(Record):
    """Which discretisation of the reverse process: a name of the catalogue, see `piadm integrators`, and its options.

    `eta` scales the noise: 1 is the reverse SDE, 0 the probability-flow ODE; "auto" is what the model's card says suits it,
    or 1, and 0 for ddim. `lam` is lambda of the conjugate integrators, `lam_s` scales
    the position's noise and `score_time` the time of the score of splittings; an integrator that does not read one of these three
    refuses it. "auto" is the Gaussian-aware exponential integrator for the SDE and collocation for the ODE (eta 0), of a
    network of position and momentum "sscs" and "gddim-ab2". `generator` names a network distilled into one call,
    "package.module:callable", that takes the integrator's place: callable(model) gives G(x, t).
    """

    integrator: str = "auto"
    generator: PluginName | None = None
    eta: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    large_variance: bool = False
    lam: float | Literal["best"] = 0.0
    lam_s: float = Field(1.0, ge=0)
    score_time: Literal["now", "middle", "next", "ahead"] = "now"

    @field_validator("integrator")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if name == "auto" else find(name).name

    @model_validator(mode="after")
    def _read(self) -> Self:
        unread = {key for key in ("lam", "lam_s", "score_time") if key in self.model_fields_set} - set(self.method.reads)
        changed = [key for key in sorted(unread) if getattr(self, key) != type(self).model_fields[key].default]
        if changed:
            readers = {key: ", ".join(one.name for one in INTEGRATORS.values() if key in one.reads) for key in changed}
            raise ValueError("; ".join(f"{self.method.name} does not read {key}; {readers[key]} do" for key in changed))
        if self.lam == "best" and self.integrator != "lambda-ddim":
            raise ValueError("lam = 'best' is the closed form of lambda-ddim; give a number")
        if self.generator is not None and self.integrator != type(self).model_fields["integrator"].default:
            raise ValueError(f"generator makes a sample in one call, {self.integrator} in many; leave one of the two out")
        return self

    @property
    def method(self) -> Integrator:
        """The record of the integrator."""
        return find(("gaussian" if self.eta else "collocation") if self.integrator == "auto" else self.integrator)


class PhaseConfig(Record):
    """The process of position and momentum that phase-space integrators run in, at critical damping (`theory.phase`)."""

    gamma: float = Field(0.01, ge=0)
    inverse_mass: float = Field(4.0, gt=0)
    beta: float = Field(8.0, gt=0)
    kappa: float = Field(0.04, gt=0)


class GridConfig(Record):
    """Points in time. `horizon` and `delta` (early stopping) are forward times theta; "auto" takes the model's.

    Kind `piadm`: steps of `step` in blocks of length `block`, shrinking in the last block. Kinds `log-snr`, `karras` and
    `power` (distance to the end like (1 - u)^`exponent` on the integrator's own clock): `steps` steps, or as many as `calls`
    network calls allow. `teleport` leaves out the points with more noise over signal than that: the Gaussian carries the
    sample over them. "auto" steps are what the model's card says, or 48; for collocation they are points, as many as the
    tolerance needs (and `teleport` with them) where the model was probed, and 8 for every digit of the tolerance elsewhere.
    `blocks` re-cuts the points into that many blocks; "auto" keeps the published blocks for a solver without reference and
    makes one block otherwise. `cut` "even" makes blocks of nearly as many points each, "lambda" blocks that need nearly as
    many sweeps each.
    """

    kind: Literal["piadm", "log-snr", "karras", "power"] = "log-snr"
    steps: int | Auto = "auto"
    calls: int | None = Field(None, ge=1)
    step: float = Field(0.0625, gt=0)
    block: float = Field(1.0, gt=0)
    exponent: float = Field(2.0, gt=0)
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
        return value

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.calls is not None and self.kind == "piadm":
            raise ValueError("calls: the published grid follows from step and block; use another kind")
        return self


class CorrectorConfig(Record):
    """The underdamped Langevin corrector of PIADM-ODE after every block.

    "auto": friction 2 sqrt(L) and length 1 / sqrt(L), with L one over the reference's smallest variance at that time.
    """

    enabled: bool = False
    friction: float | Auto = "auto"
    length: float | Auto = "auto"
    steps: int = Field(8, ge=1)
    blocks: int = Field(1, ge=1)


class ComputeConfig(Record):
    """Where and how: none of these changes a sample beyond rounding, `autocast` of the network's own.

    `time_ranks` ranks share each sample's time axis ("auto": as many as there are ranks to spare). `model_batch` caps
    the rows of a network call, `in_flight` the samples of a batch worked on at once (default: all of them); one that is
    done makes room for the next. `threads` per rank ("auto": the launcher's share of the cores). `autocast` runs the
    network in bfloat16, `compile` through torch.compile in that mode ("reduce-overhead" records CUDA graphs).
    """

    time_ranks: int | Auto = "auto"
    device: str = "auto"
    precision: Literal["float32", "float64"] = "float32"
    model_batch: int = Field(16, ge=1)
    in_flight: int | None = Field(None, ge=1)
    threads: int | Auto = "auto"
    autocast: Literal["off", "bfloat16"] = "off"
    compile: Literal["off", "default", "reduce-overhead"] = "off"

    @field_validator("time_ranks", "threads")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1 or 'auto'")
        return value


class OutputConfig(Record):
    """Shards hold `batch` samples, solved and stored together. `log_interval` in seconds."""

    batch: int = Field(4, ge=1)
    compression: Literal["zlib", "none"] = "zlib"
    log_interval: float = Field(30.0, gt=0)


class RunConfig(Record):
    """A run: a model (name of a shipped one, or a folder), how many samples, one seed, and where they go.

    `only` names sample ids to make instead of 0 .. samples-1; they equal the same members of any other run. `allow_code` lets
    a model folder run code of its own: import a network, or unpickle one.
    """

    model: str = Field(min_length=1)
    samples: int = Field(8, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    out: str = Field("run", min_length=1)
    only: tuple[int, ...] | None = None
    allow_code: bool = False
    chain: ChainConfig = ChainConfig()
    phase: PhaseConfig = PhaseConfig()
    grid: GridConfig = GridConfig()
    solver: SolverConfig = SolverConfig()
    corrector: CorrectorConfig = CorrectorConfig()
    compute: ComputeConfig = ComputeConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="before")
    @classmethod
    def _today(cls, values: Any) -> Any:
        return upgraded_run(values) if isinstance(values, dict) else values

    @field_validator("only")
    @classmethod
    def _ids(cls, ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if ids is not None and (len(ids) == 0 or min(ids) < 0 or len(set(ids)) != len(ids)):
            raise ValueError("sample ids must be distinct and not negative, at least one")
        return ids

    @model_validator(mode="after")
    def _together(self) -> Self:
        mistakes = []
        per_step, calls = self.chain.method.calls, self.grid.calls
        name = self.chain.method.name
        if name == "collocation" and self.chain.generator is None:
            mistakes += self._not_collocated()
        if self.corrector.enabled and self.chain.method.channels > 1:
            mistakes.append(f"corrector.enabled: the corrector follows one-step chains of the position alone, not {name}")
        if self.chain.generator is not None and (calls or 1) != 1:
            mistakes.append(f"grid.calls = {calls}: a generator makes one call; leave calls out")
        if self.chain.generator is not None and self.corrector.enabled:
            mistakes.append("corrector.enabled: a generator makes clean samples, there is nothing to correct")
        if calls is not None and calls % per_step:
            least = max(per_step, calls - calls % per_step)
            fits = dict.fromkeys((least, calls - calls % per_step + per_step))
            words = f"{name} makes {per_step} calls a step; use {' or '.join(map(str, fits))}"
            mistakes.append(f"grid.calls = {calls}: {words}")
        if self.solver.kind in POSITION_ONLY and (self.corrector.enabled or self.chain.method.channels > 1):
            away = "corrector.enabled" if self.corrector.enabled else f"chain.integrator = {name!r}"
            words = "this baseline solves chains of the position alone; use picard or sequential"
            mistakes.append(f"solver.kind = {self.solver.kind!r} with {away}: {words}")
        if self.solver.kind == "sequential" and self.compute.time_ranks not in ("auto", 1):
            mistakes.append("compute.time_ranks: the sequential solver has nothing to share, use 1")
        if self.corrector.enabled and (self.solver.pipelined or self.solver.window is not None):
            mistakes.append("corrector.enabled: it follows blocks that end one after the other, no window and no pipeline")
        if self.corrector.blocks > self.corrector.steps:
            mistakes.append("corrector.blocks: cannot exceed corrector.steps")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _not_collocated(self) -> list[str]:
        """Settings that belong to chains of steps."""
        given = {
            "solver.kind": self.solver.kind != "picard",
            "solver.linear": self.solver.linear != "auto",
            "solver.start": self.solver.start != "auto",
            "solver.window": self.solver.window is not None,
            "solver.pipelined": self.solver.pipelined,
            "corrector.enabled": self.corrector.enabled,
            "grid.blocks": self.grid.blocks not in ("auto", 1),
        }
        advice = "collocation solves all its points at once; for a chain of steps give chain.integrator, for example 'gaussian'"
        return [f"{', '.join(key for key, wrong in given.items() if wrong)}: {advice}"] if any(given.values()) else []

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the samples to make, increasing."""
        return tuple(range(self.samples)) if self.only is None else tuple(sorted(self.only))

    def replace(self, **changes: Any) -> RunConfig:
        """The same run with some keys changed; sections are given as dictionaries of the changed keys."""
        values = self.model_dump()
        for key, value in changes.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) else value
        return build(RunConfig, values)


# Keys that never change a member beyond rounding: a run may be continued with other values of these.
INDEPENDENT_KEYS = frozenset(
    {"samples", "only", "out", "allow_code", "output.batch", "output.compression", "output.log_interval"}
    | {f"compute.{key}" for key in ("time_ranks", "device", "model_batch", "in_flight", "threads", "compile")}
)


def parse_ids(text: str) -> tuple[int, ...]:
    """Sample ids from text such as `17,42-47`; ConfigError for anything else."""
    ids: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            low, high = int(first), int(last if dash else first)
            if low > high:
                raise ValueError("a range runs upwards")
            ids += range(low, high + 1)
    except ValueError:
        raise ConfigError(f"--only {text!r}: give sample ids such as 17,42-47") from None
    return tuple(ids)
