"""What adapter.toml may say about somebody else's network, as validated records."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ..config.plugins import PluginName
from ..config.validation import Record


class NetworkSpec(Record):
    """Where the network is and how it is called: f(x, time), or f(x, time, node_mask).

    One of `callable` ("package.module:name", called as it is), `diffusers` (a U-Net folder) and `exported` (a torch.export
    file). `time`: what it takes as time. `rows`: call it with exactly so many states, the last call padded.
    """

    callable: PluginName | None = None
    diffusers: str | None = None
    exported: str | None = None
    predicts: Literal["score", "eps", "x0", "v", "flow"] = "eps"
    time: Literal["index", "fraction", "log-snr", "sigma", "process"] = "index"
    node_mask: bool = False
    rows: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("callable", "diffusers", "exported") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of callable, diffusers and exported, not {len(given)}")
        return self


class ScheduleSpec(Record):
    """The noising process: a discrete schedule of `steps` indices, or one of the package's own by name.

    "polynomial": alpha^2 = (1 - (t/N)^power)^2, squeezed by `precision` (Hoogeboom et al. 2022, app. B); "cosine": Nichol
    and Dhariwal 2021, eq. 17; "linear" and "scaled-linear": betas between `beta_start` and `beta_end`, as diffusers has them.
    `horizon` and `delta` are the times to start and stop at (default: the ends of a table).
    """

    kind: Literal["polynomial", "cosine", "linear", "scaled-linear", "ou", "vp", "edm", "flow"] = "linear"
    steps: int = Field(1000, ge=2)
    power: float = Field(2.0, gt=0)
    precision: float = Field(1e-5, gt=0, lt=0.1)
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    horizon: float | None = Field(None, gt=0)
    delta: float | None = Field(None, gt=0)


class ChannelSpec(Record):
    """Components of a state: physical = scale * state + offset. `centred`: the mean over atoms of each molecule is zero."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    size: int = Field(1, ge=1)
    scale: float = 1.0
    offset: float = 0.0
    centred: bool = False
    units: str = "1"


class AdapterConfig(Record):
    """A network of another package. `atoms` lists the sizes of the molecules in a state, padded to `nodes`; or `grid` its shape.

    `variance` is that of the clean states, for the Gaussian that sweeps are built on.
    """

    name: str = Field(min_length=1)
    network: NetworkSpec
    schedule: ScheduleSpec = ScheduleSpec()
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)
    atoms: tuple[int, ...] = ()
    nodes: int | None = Field(None, ge=1)
    elements: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    variance: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.atoms) == (self.grid is not None):
            raise ValueError("give either atoms, the sizes of molecules, or grid, the shape of fields")
        if self.atoms and min(self.atoms) < 1:
            raise ValueError("a molecule needs at least one atom")
        if self.nodes is not None and self.nodes < sum(self.atoms):
            raise ValueError(f"{sum(self.atoms)} atoms do not fit into {self.nodes} nodes")
        if self.elements and len(self.elements) != sum(self.atoms):
            raise ValueError(f"{len(self.elements)} elements for {sum(self.atoms)} atoms; give one for each")
        return self

    @property
    def width(self) -> int:
        return sum(channel.size for channel in self.channels)

    @property
    def event_shape(self) -> tuple[int, ...]:
        if self.grid is not None:
            return (self.width, *self.grid)
        return (self.nodes or sum(self.atoms), self.width)
