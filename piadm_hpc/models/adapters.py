"""Networks of other packages, as they are: a folder with adapter.toml says where one is and what it expects.

The network is a callable `package.module:name`, a diffusers U-Net folder, or a torch.export file. Its clock, its prediction,
its noise schedule, a node mask and the normalisation of its channels are named in the file; nothing is trained again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import plugins
from ..config.validation import read
from ..data.channels import Channel, Channels
from ..gaussian.reference import GaussianReference
from ..schema.layout import Coordinate, Layout, Variable, conformer_layout
from ..schema.topology import Atom, Topology
from ..theory.bases import EOF, Identity
from ..theory.process import Process, Tabulated, by_name
from .adapter_config import AdapterConfig, ChannelSpec, NetworkSpec, ScheduleSpec
from .base import Network, ScoreModel, wrap

ADAPTER = "adapter.toml"


@dataclass(frozen=True)
class Adapted:
    """What a sampler needs of somebody else's network; the words are those of `Model`."""

    config: AdapterConfig
    score: ScoreModel
    process: Process
    reference: GaussianReference
    mask: Tensor | None
    constraint: Tensor | None
    layout: Layout
    codec: Channels
    horizon: float
    delta: float
    sha256: str


def adapt(folder: Path, device: torch.device | str = "cpu") -> Adapted:
    """The network an adapter folder describes. ConfigError or ValueError for whatever does not fit."""
    config = read(AdapterConfig, folder / ADAPTER)
    process, (horizon, delta) = make_process(config.schedule)
    mask = node_mask(config, device)
    network, files = find_network(config.network, folder, device)
    score = wrap(_called(network, config, process, mask), predicts=config.network.predicts, process=process)
    constraint = centring(config).to(device)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted([folder / ADAPTER, *files])))
    shape = config.event_shape
    used = None if config.grid is not None else mask[:, 0].bool().cpu().numpy()
    codec = Channels(
        tuple(Channel(c.name, c.size, c.scale, c.offset) for c in config.channels), shape, -1 if used is not None else 0, used
    )
    return Adapted(
        config=config,
        score=score,
        process=process,
        reference=free_gaussian(config, constraint, mask).to(device, torch.float64),
        mask=None if bool(mask.all()) else mask.expand(shape).flatten().bool(),
        constraint=constraint if constraint.shape[1] else None,
        layout=make_layout(config),
        codec=codec,
        horizon=horizon,
        delta=delta,
        sha256=digest.hexdigest(),
    )


def make_process(spec: ScheduleSpec) -> tuple[Process, tuple[float, float]]:
    """The process of a schedule, and its times (horizon, delta). ValueError for a process without them."""
    if spec.kind in ("ou", "vp", "edm", "flow"):
        if spec.horizon is None or spec.delta is None:
            raise ValueError(
                f"schedule.kind = {spec.kind!r} needs schedule.horizon and schedule.delta, times to start and stop at"
            )
        return by_name(spec.kind), (spec.horizon, spec.delta)
    process = Tabulated.from_alphas_cumprod(alphas_cumprod(spec))
    return process, (spec.horizon or float(spec.steps - 1), spec.delta or min(0.5, 0.5 * (spec.steps - 1)))


def alphas_cumprod(spec: ScheduleSpec) -> Tensor:
    """alpha^2 at the indices 0 .. steps-1 of a discrete schedule, float64."""
    count = spec.steps
    index = torch.arange(count, dtype=torch.float64)
    if spec.kind == "polynomial":
        return (1 - 2 * spec.precision) * (1 - (index / count) ** spec.power).square() + spec.precision
    if spec.kind == "cosine":
        edges = torch.arange(count + 1, dtype=torch.float64)
        kept = torch.cos((edges / count + 0.008) / 1.008 * torch.pi / 2).square()
        betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
    elif spec.kind == "linear":
        betas = torch.linspace(spec.beta_start, spec.beta_end, count, dtype=torch.float64)
    else:
        betas = torch.linspace(spec.beta_start**0.5, spec.beta_end**0.5, count, dtype=torch.float64).square()
    return torch.cumprod(1 - betas, 0)


def node_mask(config: AdapterConfig, device: torch.device | str) -> Tensor:
    """Ones for atoms and zeros for padding, [nodes, 1]; all ones, [1, 1, 1], for grids."""
    if config.grid is not None:
        return torch.ones(1, 1, 1, device=device)
    nodes = config.event_shape[0]
    return (torch.arange(nodes, device=device) < sum(config.atoms)).to(torch.float32)[:, None]


def centring(config: AdapterConfig) -> Tensor:
    """Directions no state has a component along, [d, k] orthonormal: shifts of every molecule in its centred channels."""
    if config.grid is not None:
        return torch.zeros(int(np.prod(config.event_shape)), 0, dtype=torch.float64)
    starts, directions = np.cumsum([0, *config.atoms]), []
    columns = np.repeat([channel.centred for channel in config.channels], [channel.size for channel in config.channels])
    for start, size in zip(starts, config.atoms, strict=False):
        for column in np.flatnonzero(columns):
            shift = torch.zeros(config.event_shape, dtype=torch.float64)
            shift[start : start + size, column] = size**-0.5
            directions.append(shift.flatten())
    return torch.stack(directions, 1) if directions else torch.zeros(int(np.prod(config.event_shape)), 0, dtype=torch.float64)


def free_gaussian(config: AdapterConfig, constraint: Tensor, mask: Tensor) -> GaussianReference:
    """A Gaussian of one variance on the subspace that states lie in, and of none outside it."""
    shape, size = config.event_shape, int(np.prod(config.event_shape))
    if constraint.shape[1] == 0 and bool(mask.all()):
        return GaussianReference(
            torch.zeros(size, dtype=torch.float64), Identity(shape), torch.tensor([config.variance], dtype=torch.float64)
        )
    padded = torch.eye(size, dtype=torch.float64)[:, ~mask.expand(shape).flatten().bool().cpu()]
    outside = torch.cat([constraint.cpu(), padded], 1)
    spectrum = torch.zeros(outside.shape[1] + 1, dtype=torch.float64)
    spectrum[-1] = config.variance
    return GaussianReference(torch.zeros(size, dtype=torch.float64), EOF(outside, shape), spectrum)


def find_network(spec: NetworkSpec, folder: Path, device: torch.device | str) -> tuple[Callable[..., Tensor], list[Path]]:
    """The network, and the files it came from. ValueError naming what is missing."""
    if spec.callable is not None:
        found = plugins.load("network.callable", spec.callable)
        return (found.to(device).eval() if isinstance(found, torch.nn.Module) else found), []
    path = folder / str(spec.diffusers or spec.exported)
    if not path.exists():
        raise ValueError(f"{path}: no such network; paths in {ADAPTER} start at its folder")
    if spec.exported is not None:
        loaded: torch.nn.Module = torch.export.load(path).module()
        return loaded.to(device), [path]
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise ValueError(f"{path}: a diffusers folder needs the package: pip install diffusers") from None
    unet: Any = UNet2DModel
    unet = unet.from_pretrained(str(path), local_files_only=True).to(device).eval()
    return (lambda x, t: unet(x, t).sample), [file for file in path.iterdir() if file.is_file()]


def _called(network: Callable[..., Tensor], config: AdapterConfig, process: Process, mask: Tensor) -> Network:
    """The network as a function of states [rows, *event] and process times [rows]."""
    spec = config.network

    def clock(t: Tensor) -> Tensor:
        if spec.time == "fraction":
            return t / config.schedule.steps
        if spec.time == "log-snr":
            return 2 * torch.log(process.alpha(t) / process.sigma(t))
        return process.sigma(t) if spec.time == "sigma" else t

    def call(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            extra = (mask.to(x).expand(len(x), *mask.shape),) if spec.node_mask else ()
            return network(x, clock(t.to(torch.float64)).to(x.dtype), *extra)

    rows = spec.rows
    return call if rows is None else lambda x, t: _in_buckets(call, x, t, rows)


def _in_buckets(call: Network, x: Tensor, t: Tensor, rows: int) -> Tensor:
    """Calls with exactly `rows` states each: what is traced for one size cannot take another."""
    parts = []
    for start in range(0, len(x), rows):
        a, b = x[start : start + rows], t[start : start + rows]
        short = rows - len(a)
        full = call(torch.cat([a, a[-1:].expand(short, *a.shape[1:])]), torch.cat([b, b[-1:].expand(short)]))
        parts.append(full[: len(a)])
    return torch.cat(parts)


def make_layout(config: AdapterConfig) -> Layout:
    """How decoded channels are stored: atoms with a topology without bonds where positions have three components, else fields."""
    if config.grid is not None:
        axes = {dim: Coordinate((dim,), np.arange(n, dtype=np.float64)) for dim, n in zip(("y", "x"), config.grid, strict=True)}
        return Layout(tuple(_grid_variable(c, axes) for c in config.channels), axes)
    atoms = _atoms(config.atoms, config.elements)
    base = conformer_layout(Topology(atoms))
    axes, variables = dict(base.coordinates), []
    for channel in config.channels:
        dims: tuple[str, ...] = ("atom",)
        if channel.size == 3 and channel.centred:
            dims = ("atom", "spatial")
        elif channel.size > 1:
            axis = f"{channel.name}_component"
            axes[axis], dims = Coordinate((axis,), np.arange(channel.size, dtype=np.int32)), ("atom", axis)
        variables.append(Variable(channel.name, dims, {"units": channel.units}))
    positions = any(v.name == "coordinates" and v.dims == ("atom", "spatial") for v in variables)
    return Layout(tuple(variables), axes, "sample", base.topology if positions else None)


def _grid_variable(channel: ChannelSpec, axes: dict[str, Coordinate]) -> Variable:
    if channel.size == 1:
        return Variable(channel.name, ("y", "x"), {"units": channel.units})
    axes[f"{channel.name}_component"] = Coordinate((f"{channel.name}_component",), np.arange(channel.size, dtype=np.int32))
    return Variable(channel.name, (f"{channel.name}_component", "y", "x"), {"units": channel.units})


def _atoms(sizes: Sequence[int], elements: Sequence[str]) -> tuple[Atom, ...]:
    """Atoms without names of their own: one residue per molecule."""
    named = elements or ["C"] * sum(sizes)
    residues = np.repeat(np.arange(len(sizes)), sizes)
    return tuple(
        Atom(f"{e}{k + 1}"[:4], e, "MOL", int(r) + 1, int(r)) for k, (e, r) in enumerate(zip(named, residues, strict=True))
    )
