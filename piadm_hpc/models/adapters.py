"""Unchanged networks of other packages: adapter.toml in a folder describes where a network is and what it expects.

The network is a callable `package.module:name`, a diffusers U-Net folder, a file of torch.export, or a checkpoint of physicsnemo.
The file names its time, its prediction, its noise schedule, a node mask, the normalisation of its channels and its condition;
nothing is trained again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.validation import ConfigError, read
from ..data.channels import Channel, Channels
from ..gaussian.masked import MaskedEOF
from ..gaussian.reference import GaussianReference
from ..schema.conditions import Condition, matched
from ..theory.bases import EOF, Identity
from ..theory.process import Process, forward_time
from .adapter_condition import ForeignConditioning
from .adapter_config import AdapterConfig
from .adapter_layout import make_layout, read_grid
from .base import Network, wrap
from .foreign import ADAPTER, as_network, find_network, load_mean, try_network
from .loaded import in_one_line
from .mdlus import with_checkpoint
from .model import Model
from .packing import RESPONSE, with_response
from .schedules import make_process, with_scheduler


def adapt(folder: Path, device: torch.device | str = "cpu", *, allow_code: bool = False) -> Model:
    """Load the model of a foreign network that an adapter folder describes, and try it on a few states.

    Raises ConfigError or ValueError, naming file and key, for anything that does not fit, and for code that `allow_code` does
    not permit.
    """
    source = folder / ADAPTER
    config = read_adapter(folder)
    whole = config.network.time_dtype == "int64"
    try:
        process, (horizon, delta) = make_process(config.schedule, whole=whole)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    axes, data_mask = read_grid(config, folder)
    loaded = find_network(config.network, folder, device, config.condition, allow_code=allow_code)
    conditioning, more = _conditioning(config, folder, device, allow_code=allow_code)
    nodes, mask, constraint = node_mask(config, device), state_mask(config, data_mask, device), centring(config).to(device)
    network = as_network(loaded, config, process, nodes)
    reference = free_gaussian(config, constraint, mask).to(device, torch.float64)
    trial = () if conditioning is None else (matched(conditioning.trial(3), torch.zeros((), device=device)),)
    _try(network, config, process, (horizon, delta), reference, source, *trial)
    used = None if config.grid is not None else nodes[:, 0].bool().cpu().numpy()
    gaps = None if data_mask is None else np.broadcast_to(data_mask, config.event_shape).copy()
    channels = tuple(Channel(c.name, c.size, c.scale, c.offset) for c in config.channels)
    return Model(
        name=config.name,
        score=wrap(network, predicts=config.network.predicts, process=process),
        denoiser=None,
        process=process,
        event_shape=config.event_shape,
        reference=with_response(reference, folder / RESPONSE),
        mask=mask,
        constraint=constraint if constraint.shape[1] else None,
        layout=make_layout(config, axes),
        normalisation=Channels(channels, config.event_shape, -1 if used is not None else 0, used, gaps),
        horizon=horizon,
        delta=delta,
        # collocation calls networks between indices
        card=config.model_dump(mode="json") | ({"sampling": {"flow": "gaussian-ab2"}} if whole else {}),
        sha256=_digest(config, folder, loaded.sha256 + more),
        conditioning=conditioning,
    )


def read_adapter(folder: Path) -> AdapterConfig:
    """Read an adapter's configuration, completed from a diffusers scheduler or physicsnemo's arguments; nothing is loaded."""
    config = read(AdapterConfig, folder / ADAPTER)
    if config.network.mdlus is not None:
        return with_checkpoint(config, folder / config.network.mdlus, folder / ADAPTER)
    if config.network.diffusers is None:
        return config
    return with_scheduler(config, folder / config.network.diffusers, folder / ADAPTER)


def _conditioning(
    config: AdapterConfig, folder: Path, device: torch.device | str, *, allow_code: bool
) -> tuple[ForeignConditioning | None, str]:
    """Return the encoder of an adapter's conditions (None without any), and the digest of its regression."""
    if config.condition is None:
        return None, ""
    channels = {channel.name: (channel.scale, channel.offset) for channel in config.channels}
    if config.regression is None:
        return ForeignConditioning(config.condition, config.event_shape, channels), ""
    mean, digest = load_mean(config.regression, config.width, folder, device, allow_code=allow_code)
    conditioning = ForeignConditioning(config.condition, config.event_shape, channels, mean, config.regression.shown)
    try:
        found = conditioning.trial(2)["mean"]
    except Exception as error:
        raise ConfigError(f"{folder / ADAPTER}: the regression fails: {in_one_line(error)}") from error
    if tuple(found.shape) != (2, *config.event_shape) or not bool(torch.isfinite(found).all()):
        raise ConfigError(
            f"{folder / ADAPTER}: the regression returned {list(found.shape)} for two conditions; it must return finite numbers, "
            f"[conditions, {', '.join(map(str, config.event_shape))}]"
        )
    return conditioning, digest


def _try(
    network: Network,
    config: AdapterConfig,
    process: Process,
    ends: tuple[float, float],
    reference: GaussianReference,
    source: Path,
    *condition: Condition,
) -> None:
    """Try the network on three states of the reference, at three times in the middle of the schedule."""
    low, high = torch.log(forward_time(process, torch.tensor(ends, dtype=torch.float64))).flip(0).tolist()
    t = process.time(torch.exp(low + (high - low) * torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)))
    white = torch.randn((3, *config.event_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    white = white.flatten(1).to(reference.mean)
    inside = reference.basis.expand((reference.spectrum > 0).to(white))
    white = reference.basis.synthesise(inside * reference.basis.analyse(white))
    alpha, sigma = process.alpha(t), process.sigma(t)
    states = torch.sqrt(alpha**2 * config.variance + sigma**2).to(white)[:, None] * white
    try_network(
        network,
        config.network,
        states.reshape(3, *config.event_shape).to(torch.float32),
        t.to(states.device, torch.float32),
        source,
        *condition,
    )


def _digest(config: AdapterConfig, folder: Path, network: str) -> str:
    """SHA-256 of everything that determines a sample: the configuration, the network, and the file of coordinates and mask."""
    parts = [(folder / ADAPTER).read_bytes(), config.model_dump_json().encode(), network.encode()]
    if config.coordinates is not None:
        parts.append((folder / config.coordinates).read_bytes())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def node_mask(config: AdapterConfig, device: torch.device | str) -> Tensor:
    """Return ones for atoms and zeros for padding, [nodes, 1]; a single one for grids."""
    if config.grid is not None:
        return torch.ones(1, 1, device=device)
    nodes = config.event_shape[0]
    return (torch.arange(nodes, device=device) < sum(config.atoms)).to(torch.float32)[:, None]


def state_mask(config: AdapterConfig, data_mask: np.ndarray | None, device: torch.device | str) -> Tensor | None:
    """Return which entries of a flat state hold data, [d]; None if all of them do."""
    if config.grid is None:
        mask = node_mask(config, device).expand(config.event_shape).flatten().bool()
    elif data_mask is not None:
        mask = torch.from_numpy(data_mask).expand(config.event_shape).flatten().to(device)
    else:
        return None
    return None if bool(mask.all()) else mask


def centring(config: AdapterConfig) -> Tensor:
    """Return orthonormal directions [d, k] along which states have no component: shifts of every molecule in centred channels."""
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


def free_gaussian(config: AdapterConfig, constraint: Tensor, mask: Tensor | None) -> GaussianReference:
    """Return a Gaussian with one variance on the subspace of states, and zero variance outside it."""
    shape, size = config.event_shape, int(np.prod(config.event_shape))
    mean, variance = torch.zeros(size, dtype=torch.float64), torch.tensor([config.variance], dtype=torch.float64)
    if constraint.shape[1] == 0:
        if mask is None:
            return GaussianReference(mean, Identity(shape), variance)
        none = torch.zeros(size, 0, dtype=torch.float64)
        return GaussianReference(mean, MaskedEOF(none, shape, mask.cpu()), torch.cat([variance, torch.zeros_like(variance)]))
    padded = torch.eye(size, dtype=torch.float64)[:, [] if mask is None else ~mask.cpu()]
    outside = torch.cat([constraint.cpu(), padded], 1)
    return GaussianReference(mean, EOF(outside, shape), torch.cat([torch.zeros(outside.shape[1], dtype=torch.float64), variance]))
