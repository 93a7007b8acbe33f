"""Saving and loading model folders: card.toml describes a model, reference.h5 and weights.safetensors hold its numbers.

`load_model` takes such a folder, or the name of a model that comes with the package.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.conditions import MAPS
from ..data.normalise import Normalisation
from ..data.superpose import rigid_motions
from ..data.transforms import pack_transform, unpack_transform
from ..gaussian.reference import GaussianReference
from ..schema.layout import Coordinate, Layout, Variable, conformer_layout
from ..schema.topology import Topology
from ..store.arrays import read_arrays, write_arrays
from ..store.files import digest
from ..theory.process import by_name
from .adapters import adapt
from .conditioning import Conditioning
from .config import ConformerNetworkConfig, NetworkConfig
from .denoiser import DenoiserScore, GaussianDenoiser
from .foreign import ADAPTER
from .loading import with_weights
from .model import Model
from .networks.cells import CellUNet
from .networks.fields import make_field_network
from .networks.messages import MessageNetwork
from .networks.pairs import ConformerNetwork, make_conformer_network
from .networks.unet import GridUNet
from .packing import RESPONSE, pack_reference, unpack_gate, unpack_reference, unpack_regression, with_response
from .phase_denoiser import denoiser_kind
from .record import Card, MoleculeCard, VariableCard, read_card, write_card
from .registry import CARD, find_model, require_replaceable

REFERENCE, WEIGHTS, STATISTICS = "reference.h5", "weights.safetensors", "statistics.h5"
TOPOLOGY, HELD_OUT = "topology.json", "held_out.h5"  # of models of conformers


def save_model(
    folder: Path,
    card: Card,
    reference: GaussianReference,
    normalisation: Normalisation,
    coordinates: Mapping[str, Coordinate],
    network: nn.Module | None = None,
    further: Mapping[str, Coordinate] | None = None,
    extra: Mapping[str, Coordinate] | None = None,
    statistics: Mapping[str, Coordinate] | None = None,
    more: Callable[[Path], None] | None = None,
    stored: torch.dtype = torch.float32,
) -> Path:
    """Write a model folder as a whole, replacing an older one, and return it; the card's checksums are filled in.

    `coordinates` are those of the grid; `further` ones, and `extra` arrays, are stored in reference.h5 too, `statistics` of the
    data in a file of their own. `more` is called with the
    folder and may add files. Weights are rounded to the precision `stored`.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    grid = tuple(coordinates)
    arrays = dict(coordinates) | dict(further or {}) | _normalisation_arrays(normalisation, grid)
    arrays |= pack_reference(reference, grid) | dict(extra or {})
    write_arrays(partial / REFERENCE, arrays, {"title": card.title or card.name})
    if statistics:
        write_arrays(partial / STATISTICS, statistics, {"title": f"statistics of the data behind {card.name}"})
    if network is not None:
        weights = {k: p.detach().cpu().to(stored).contiguous() for k, p in network.named_parameters()}
        save_file(weights, partial / WEIGHTS)
    if more is not None:
        more(partial)
    for path in partial.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner may read
    sums = {path.name: digest(path) for path in sorted(partial.iterdir())}
    write_card(partial / CARD, card.model_copy(update={"sha256": sums}))
    require_replaceable(folder, "output")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def load_model(folder: str | Path, device: torch.device | str = "cpu", *, allow_code: bool = False) -> Model:
    """Load the model in a folder, or a shipped model by its name.

    Loading a trained model runs no code from its folder. A folder with adapter.toml holds a network of another package (see
    `adapters`): one that is imported or unpickled is code, which runs only with `allow_code`. Raises ValueError, naming the
    file, for anything missing or damaged, and for code that is not allowed.
    """
    path = find_model(folder)
    if (path / ADAPTER).is_file():
        return adapt(path, device, allow_code=allow_code)
    card = read_card(path / CARD)
    verify_files(path, card)
    arrays, _ = read_arrays(path / REFERENCE)
    coordinates, normalisation = _grid(path / REFERENCE, card, arrays)
    try:
        process = by_name(card.process.name, **card.process.parameters)
        reference = unpack_reference(arrays, card.reference, normalisation, _latitudes(coordinates)).to(device, torch.float64)
        gate = unpack_gate(arrays, reference.basis.num_shells)
        conditioning = _conditioning(card, arrays, normalisation)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path / REFERENCE}: does not fit {CARD}: {error}") from None
    topology = None if card.molecule is None else Topology.from_json((path / TOPOLOGY).read_text(encoding="utf-8"))
    kind, network = denoiser_kind(process), None
    if card.network is not None:
        made = _network(card, coordinates, normalisation, topology, kind, conditioning)
        network = with_weights(path / WEIGHTS, made).to(device)
    gaps = normalisation.state_mask()
    mask = None if gaps is None else gaps.to(device)
    constraint = None if card.molecule is None else _constraint(card.molecule, normalisation).to(device)
    denoiser = kind(process, reference, network, mask, constraint, gate)
    variables = tuple(_variable(v) for v in card.variables)
    return Model(
        name=card.name,
        score=DenoiserScore(denoiser),
        denoiser=denoiser,
        process=process,
        event_shape=normalisation.event_shape,
        reference=with_response(reference, path / RESPONSE),
        mask=None if mask is None else mask.flatten(),
        constraint=constraint,
        layout=Layout(variables, coordinates, leading=card.leading) if topology is None else conformer_layout(topology),
        normalisation=normalisation,
        horizon=card.process.horizon,
        delta=card.process.delta,
        card=card.model_dump(mode="json"),
        sha256=joint_digest(card),
        conditioning=conditioning,
    )


def _conditioning(card: Card, arrays: Mapping[str, Coordinate], normalisation: Normalisation) -> Conditioning | None:
    """Return the encoder of the model's condition; ValueError for arrays that are missing."""
    if card.condition is None:
        return None
    num_maps = sum(given.kind in MAPS for given in card.condition.inputs)
    regression = unpack_regression(arrays, num_maps, normalisation.mean.shape)
    return Conditioning(card.condition.inputs, regression, normalisation)


def note_samples(folder: Path, scores: Mapping[str, Any]) -> Path:
    """Write the scores of a run's samples into a model's card and return its path; the model's checksums stay as they are.

    Raises ValueError for the folder of a foreign network, which has no card.
    """
    if (folder / ADAPTER).is_file():
        raise ValueError(f"{folder}: a network of another package has no {CARD} to write scores into; leave --card out")
    card = read_card(folder / CARD)
    write_card(folder / CARD, card.model_copy(update={"samples": dict(scores)}))
    return folder / CARD


def verify_files(path: Path, card: Card) -> None:
    """Compare the files of a model's folder with the checksums of its card. Raises ValueError with all mistakes at once."""
    needed = [REFERENCE] + [WEIGHTS] * (card.network is not None) + [TOPOLOGY] * (card.molecule is not None)
    mistakes = []
    for name in needed:
        if name not in card.sha256:
            mistakes.append(f"{path / CARD}: no sha256 of {name}")
        elif not (path / name).is_file():
            mistakes.append(f"{path / name}: no such file")
        elif digest(path / name) != card.sha256[name]:
            mistakes.append(f"{path / name}: its sha256 is not the one in {CARD}; the file was changed or copied incompletely")
    if mistakes:
        raise ValueError("\n".join(mistakes))


def _grid(path: Path, card: Card, arrays: Mapping[str, Coordinate]) -> tuple[dict[str, Coordinate], Normalisation]:
    """Return coordinates and normalisation; ValueError for arrays that are missing or of another size."""
    names = card.coordinate_names
    absent = [name for name in (*names, "mean_field", "scale_field", "mask") if name not in arrays]
    if absent:
        raise ValueError(f"{path}: lacks {', '.join(absent)}")
    coordinates = {name: arrays[name] for name in names}
    layout = Layout(tuple(_variable(v) for v in card.variables), coordinates, leading=card.leading)
    shapes = {v.name: layout.channels(v) for v in layout.variables}
    count = sum(math.prod(shape) for shape in shapes.values())
    shape = (count, *(len(coordinates[dim].values) for dim in card.grid))
    fields = {name: arrays[name].values for name in ("mean_field", "scale_field", "mask")}
    wrong = [f"{name} is {v.shape}, not {shape}" for name, v in fields.items() if v.shape != shape]
    wrong += [f"{name} has values that are not finite" for name, v in fields.items() if not np.isfinite(v).all()]
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}")
    found = Normalisation(tuple(shapes), fields["mean_field"], fields["scale_field"], fields["mask"].astype(bool), shapes=shapes)
    transforms = {label: unpack_transform(label, arrays) for label in found.labels}
    return coordinates, replace(found, transforms={label: one for label, one in transforms.items() if one is not None})


def _network(
    card: Card,
    coordinates: Mapping[str, Coordinate],
    normalisation: Normalisation,
    topology: Topology | None,
    kind: type[GaussianDenoiser],
    conditioning: Conditioning | None,
) -> GridUNet | CellUNet | ConformerNetwork | MessageNetwork:
    """Return the network that the card describes, without its weights."""
    if isinstance(card.network, ConformerNetworkConfig) and topology is not None and card.molecule is not None:
        turned = card.molecule.alignment == "superposed"
        numbers = None if conditioning is None else conditioning.num_numbers
        return make_conformer_network(card.network, normalisation, topology, superposed_frame=turned, given=numbers)
    if not isinstance(card.network, NetworkConfig):
        raise ValueError(f"{CARD}: a network of atoms needs a section `molecule`")
    grid = {dim: coordinates[dim] for dim in card.grid}
    count = len(normalisation.mean)
    sizes = kind.inputs * count, kind.outputs * count
    given = None if conditioning is None else (conditioning.num_maps, conditioning.num_numbers)
    return make_field_network(*sizes, grid, coordinates, card.wrap, card.network, given)


def _constraint(molecule: MoleculeCard, normalisation: Normalisation) -> Tensor:
    """Return the rigid motions along which states of a molecule have no component."""
    return torch.from_numpy(rigid_motions(normalisation.mean[0], turns=molecule.alignment == "superposed"))


def _latitudes(coordinates: Mapping[str, Coordinate]) -> list[float]:
    values: list[float] = next(iter(coordinates.values())).values.tolist()
    return values


def _normalisation_arrays(normalisation: Normalisation, grid: tuple[str, ...]) -> dict[str, Coordinate]:
    dims = ("variable", *grid)
    packed = [pack_transform(name, transform) for name, transform in normalisation.transforms.items()]
    transforms = {key: array for arrays in packed for key, array in arrays.items()}
    return transforms | {
        "mean_field": Coordinate(dims, normalisation.mean, {"long_name": "added when decoding, in physical units"}),
        "scale_field": Coordinate(dims, normalisation.scale, {"long_name": "physical units of a state of one"}),
        "mask": Coordinate(dims, normalisation.mask, {"long_name": "one where there are data"}),
    }


def _variable(card: VariableCard) -> Variable:
    return Variable(card.name, card.dims, card.model_dump(exclude={"name", "dims"}, exclude_none=True))


def joint_digest(card: Card) -> str:
    """Return the digest of all files of a model, which runs store as model_sha256."""
    return hashlib.sha256("".join(f"{k}{v}" for k, v in sorted(card.sha256.items())).encode()).hexdigest()


__all__ = [
    "HELD_OUT",
    "REFERENCE",
    "RESPONSE",
    "STATISTICS",
    "TOPOLOGY",
    "WEIGHTS",
    "Model",
    "joint_digest",
    "load_model",
    "note_samples",
    "save_model",
    "verify_files",
]
