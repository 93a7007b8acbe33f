"""The contents of adapter.toml, which describes a network of another package, as validated records."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ..config.plugins import PluginName
from ..config.validation import Record
from .adapter_condition import NAME, ConditionSpec

# discrete schedules with the keys that each of them reads
TABLES = {
    "polynomial": ("steps", "power", "precision"),
    "cosine": ("steps", "zero_snr"),
    "linear": ("steps", "beta_start", "beta_end", "zero_snr"),
    "scaled-linear": ("steps", "beta_start", "beta_end", "zero_snr"),
    "betas": ("betas", "zero_snr"),
}
ALWAYS = ("kind", "horizon", "delta")


class NetworkFile(Record):
    """Where a network is: a `callable` ("package.module:name"), a file of torch.export, or a checkpoint of physicsnemo."""

    callable: PluginName | None = None
    exported: str | None = None
    mdlus: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        kinds = [name for name in ("callable", "diffusers", "exported", "mdlus") if name in type(self).model_fields]
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(kinds[:-1])} and {kinds[-1]}, not {len(given)}")
        return self

    @property
    def runs_code(self) -> str | None:
        """The key whose value makes Python run code of the folder's choice; None for a format that is only read."""
        return "callable" if self.callable is not None else "exported" if self.exported is not None else None


class RegressionSpec(NetworkFile):
    """The network that predicts the mean of the states given the condition; the model's own states are its residuals.

    It is called as `f(maps, ...)`, with the arguments of a conditional network after states and times. With `shown` its
    prediction is the first of the maps that the model's network receives.
    """

    shown: bool = False


class NetworkSpec(NetworkFile):
    """Where the network is and how it is called: `f(x, time)` or `f(x, time, node_mask)`, followed by its condition.

    Exactly one of `callable` ("package.module:name"), `diffusers` (a folder with a U-Net), `exported` (a file of
    torch.export) and `mdlus` (a checkpoint of physicsnemo) is given. `time` names what the network takes as its time,
    multiplied by `time_scale`. States and times are passed as `dtype` and `time_dtype`: "auto" is the precision of the
    network's weights, else that of the states. A network with `rows` is always called with that many states; the last call
    is padded.
    """

    diffusers: str | None = None
    predicts: Literal["score", "eps", "x0", "v", "flow"] = "eps"
    time: Literal["index", "fraction", "log-snr", "sigma", "process"] = "index"
    time_scale: float = 1.0
    time_dtype: Literal["auto", "float16", "bfloat16", "float32", "float64", "int64"] = "auto"
    dtype: Literal["auto", "float16", "bfloat16", "float32", "float64"] = "auto"
    node_mask: bool = False
    rows: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _of_time(self) -> Self:
        mistakes = []
        if self.time_dtype == "int64" and (self.time, self.time_scale) != ("index", 1.0):
            mistakes.append("time_dtype = 'int64' passes whole indices: it goes with time = 'index' and no time_scale")
        if self.time_scale == 0:
            mistakes.append("time_scale = 0 would give the network the same time everywhere")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class ScheduleSpec(Record):
    """The noising process: a discrete schedule, or a process of this package by its name.

    Discrete schedules have `steps` indices. "polynomial": alpha^2 = (1 - (t/N)^power)^2, squeezed by `precision` (Hoogeboom
    et al. 2022, app. B). "cosine": Nichol and Dhariwal 2021, eq. 17. "linear" and "scaled-linear": betas between `beta_start`
    and `beta_end`, as in diffusers. "betas": the list `betas`. With `zero_snr` the schedule is rescaled to end in pure noise
    (Lin et al. 2024, algorithm 1). `horizon` and `delta` are the times at which sampling starts and stops, by default the ends
    of the table; ou, vp, edm and flow need both.
    """

    kind: Literal["polynomial", "cosine", "linear", "scaled-linear", "betas", "ou", "vp", "edm", "flow"] = "linear"
    steps: int = Field(1000, ge=2)
    power: float = Field(2.0, gt=0)
    precision: float = Field(1e-5, gt=0, lt=0.1)
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    betas: tuple[float, ...] = ()
    zero_snr: bool = False
    horizon: float | None = Field(None, gt=0)
    delta: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        mistakes = []
        read = (*ALWAYS, *TABLES.get(self.kind, ()))
        fields = type(self).model_fields
        unread = [key for key in fields if key not in read and getattr(self, key) != fields[key].default]
        if unread:
            mistakes.append(f"{', '.join(unread)}: kind = {self.kind!r} does not read {'it' if len(unread) == 1 else 'them'}")
        if "beta_start" in read and not self.beta_start < self.beta_end:
            mistakes.append(f"beta_start = {self.beta_start:g} must be less than beta_end = {self.beta_end:g}")
        if self.kind == "betas" and (len(self.betas) < 2 or not all(0 < beta < 1 for beta in self.betas)):
            mistakes.append("kind = 'betas' needs betas, a list of at least two numbers between 0 and 1")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def count(self) -> int | None:
        """Number of indices of a discrete schedule; None for a process of this package."""
        if self.kind not in TABLES:
            return None
        return len(self.betas) if self.kind == "betas" else self.steps


class ChannelSpec(Record):
    """Components of a state: physical = scale * state + offset, with CF attributes for the file of samples.

    The mean of a `centred` channel over the atoms of each molecule is zero.
    """

    name: str = Field(min_length=1, pattern=NAME)
    size: int = Field(1, ge=1)
    scale: float = 1.0
    offset: float = 0.0
    centred: bool = False
    units: str = "1"
    long_name: str | None = None
    standard_name: str | None = None
    cell_methods: str | None = None

    @model_validator(mode="after")
    def _invertible(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale = 0 would make every sample equal to offset")
        return self

    @property
    def attributes(self) -> dict[str, str]:
        """The channel's CF attributes."""
        return self.model_dump(include={"units", "long_name", "standard_name", "cell_methods"}, exclude_none=True)


class AdapterConfig(Record):
    """A network of another package as a model: its network, schedule and channels, and the shape of its states.

    Give `atoms`, the sizes of the molecules in a state, padded to `nodes`; or `grid`, the shape of fields. `coordinates` is a
    file in the folder that xarray opens, with a coordinate for each of `dims`, the names of the grid's axes, and the variable
    that `mask` names: non-zero where there are data. `variance` is that of clean states, for the Gaussian that preconditions
    sweeps. `condition` describes the inputs of a conditional network, and `regression` the network that predicts the mean from
    them.
    """

    name: str = Field(min_length=1)
    network: NetworkSpec
    schedule: ScheduleSpec = ScheduleSpec()
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)
    atoms: tuple[int, ...] = ()
    nodes: int | None = Field(None, ge=1)
    elements: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    dims: tuple[str, str] = ("y", "x")
    coordinates: str | None = None
    mask: str | None = None
    variance: float = Field(1.0, gt=0)
    condition: ConditionSpec | None = None
    regression: RegressionSpec | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        mistakes = [*self._of_shape(), *self._of_fields(), *self._of_time(), *self._of_condition()]
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            mistakes.append(f"channels need different names, got {', '.join(names)}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _of_shape(self) -> list[str]:
        mistakes = []
        if bool(self.atoms) == (self.grid is not None):
            mistakes.append("give either atoms, the sizes of molecules, or grid, the shape of fields")
        if self.grid is not None and min(self.grid) < 1:
            mistakes.append(f"grid = {list(self.grid)}: both sizes must be at least 1")
        if self.atoms and min(self.atoms) < 1:
            mistakes.append("a molecule needs at least one atom")
        if self.nodes is not None and self.nodes < sum(self.atoms):
            mistakes.append(f"{sum(self.atoms)} atoms do not fit into {self.nodes} nodes")
        if self.elements and len(self.elements) != sum(self.atoms):
            mistakes.append(f"{len(self.elements)} elements for {sum(self.atoms)} atoms; give one for each")
        return mistakes

    def _of_fields(self) -> list[str]:
        mistakes = []
        if self.mask is not None and self.coordinates is None:
            mistakes.append(f"mask = {self.mask!r} is read from the file `coordinates`; name that file")
        if self.coordinates is not None and self.grid is None:
            mistakes.append("coordinates belong to a grid; leave them out for atoms")
        if self.grid is not None and self.network.node_mask:
            mistakes.append("network.node_mask belongs to atoms; leave it out for a grid")
        if self.grid is not None and any(channel.centred for channel in self.channels):
            mistakes.append("channels.centred belongs to atoms; leave it out for a grid")
        if self.dims[0] == self.dims[1]:
            mistakes.append(f"dims = {list(self.dims)}: the axes need different names")
        return mistakes

    def _of_time(self) -> list[str]:
        if self.network.time in ("index", "fraction") and self.schedule.count is None:
            return [
                f"network.time = {self.network.time!r} needs a schedule of indices; with schedule.kind = {self.schedule.kind!r} "
                "give network.time = 'sigma', 'log-snr' or 'process'"
            ]
        return []

    def _of_condition(self) -> list[str]:
        mistakes, given = [], self.condition
        maps = () if given is None else given.of_kind("map", "lag")
        if maps and self.grid is None:
            mistakes.append(f"condition.inputs: {maps[0].name} is a map, which belongs to a grid; atoms take numbers and classes")
        known = [channel.name for channel in self.channels if channel.size == 1]
        mistakes += [
            f"condition.inputs: {one.name} is an earlier {one.variable}, which is no channel of one component; there are "
            f"{', '.join(known) or 'none'}"
            for one in maps
            if one.kind == "lag" and one.variable not in known
        ]
        if self.regression is not None and given is None:
            mistakes.append("regression predicts the mean given a condition; give condition.inputs")
        if self.regression is not None and self.grid is None:
            mistakes.append("regression belongs to a grid; leave it out for atoms")
        if self.regression is not None and given is not None and given.dropout:
            mistakes.append("condition.dropout: without a condition there is no mean; leave it out, or the regression")
        return mistakes

    @property
    def width(self) -> int:
        """Number of components of a state at a point of the grid or an atom."""
        return sum(channel.size for channel in self.channels)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of a state: [components, y, x] of fields, [nodes, components] of molecules."""
        if self.grid is not None:
            return (self.width, *self.grid)
        return (self.nodes or sum(self.atoms), self.width)
