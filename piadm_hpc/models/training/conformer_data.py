"""Training data of a model of conformers: trajectories as states, and these less their mean given a condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.conditions import InputValues
from ...data.frame_inputs import FrameConditionConfig
from ...data.inputs import PARTS
from ...data.normalise import Normalisation
from ...data.superpose import centred, mean_structure, rigid_motions, superposed
from ...data.trajectories import Frames, TrajectoryConfig, read_frames, relabelled, split, unweighted
from ...gaussian.regression import fit_regression, without_mean
from ...schema.conditions import Condition
from ...schema.topology import Topology
from ..config import ConformerNetworkConfig
from ..denoiser import GaussianDenoiser
from .conditioned import Conditioned, fit_mean, input_card

CENTRED_ON = 20_000  # number of frames from which the mean structure is computed


@dataclass(frozen=True)
class ConformerData:
    """States [n, atoms, 3] float32 for training, validation and test, and their normalisation to nanometres.

    States have no component along the rigid motions `constraint` [3 atoms, k]. `held_out` are the test frames themselves.
    `inputs` are those of a conditional model, by name, and `conditions` the same encoded, by part of the data.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    normalisation: Normalisation
    constraint: Tensor
    topology: Topology
    held_out: Frames
    excluded: Mapping[str, int]
    files: tuple[str, ...]
    inputs: Mapping[str, InputValues] = field(default_factory=dict)
    conditions: Mapping[str, Condition] = field(default_factory=dict)


@dataclass(frozen=True)
class Initial:
    """A trained model of conformers, whose training is continued; `trained` is the range of its log-SNR in training."""

    denoiser: GaussianDenoiser
    network: ConformerNetworkConfig
    normalisation: Normalisation
    topology: Topology
    alignment: str
    trained: tuple[float, ...]


def read_conformers(
    config: TrajectoryConfig,
    root: Path,
    *,
    seed: int,
    initial: Initial | None = None,
    condition: FrameConditionConfig | None = None,
) -> ConformerData:
    """Read trajectories as states in units of their spread: deviations from the mean structure, or centred positions.

    The structure and the units are those of the model `initial`, if its training is continued. Raises ValueError for frames of
    another molecule, or in another alignment.
    """
    frames = read_frames(config, root, condition)
    if initial is not None and (frames.topology, config.alignment) != (initial.topology, initial.alignment):
        raise ValueError(
            f"initial: the frames are of {len(frames.topology)} atoms, {config.alignment}, and the model is of "
            f"{len(initial.topology)}, {initial.alignment}; they must be of the same molecule, with the same data.alignment"
        )
    parts = split(config, frames)
    equal = {name: unweighted(part, seed=seed) if len(part.file) else part for name, part in parts.items()}
    drawn = {name: part.positions for name, part in equal.items()}
    drawn["train"] = relabelled(drawn["train"], frames.topology, config.relabel, seed=seed)
    turned = config.alignment == "superposed"
    if initial is not None:
        centre = np.asarray(initial.normalisation.mean[0])
    else:
        centre = mean_structure(drawn["train"][:CENTRED_ON])[0] if turned else np.zeros_like(drawn["train"][0])

    def deviations(positions: np.ndarray) -> np.ndarray:
        return superposed(positions, centre) - centre if turned else centred(positions)

    apart = {name: deviations(positions) for name, positions in drawn.items()}
    constraint = rigid_motions(centre, turns=turned)
    spread = np.sqrt((apart["train"] ** 2).sum((1, 2)).mean() / (centre.size - constraint.shape[1]))
    scale = spread if initial is None else initial.normalisation.scale[0, 0, 0]
    if not spread > 0:
        raise ValueError("the training frames are all the same conformer; there is nothing to learn")
    train, validation, test = (
        torch.from_numpy((apart[name] / scale).astype(np.float32)) for name in ("train", "validation", "test")
    )
    ones = np.ones((1, *centre.shape))
    return ConformerData(
        train,
        validation,
        test,
        normalisation=Normalisation(("coordinates",), centre[None], scale * ones, ones.astype(bool)),
        constraint=torch.from_numpy(constraint),
        topology=frames.topology,
        held_out=parts["test"],
        excluded=frames.excluded,
        files=frames.names,
        inputs={} if condition is None else {name: _values(name, condition, equal, config.relabel) for name in condition.inputs},
    )


def _values(name: str, condition: FrameConditionConfig, parts: Mapping[str, Frames], copies: int) -> InputValues:
    """One input of all states, of which the training frames are there so many times."""
    given, numbers = condition.inputs[name], {part: frames.inputs[name].values for part, frames in parts.items()}
    numbers["train"] = np.tile(numbers["train"], copies)
    return InputValues(given.kind, name, parts["train"].inputs[name].units, 0, given.classes or 0, numbers)


def condition_conformers(data: ConformerData, dropout: float, alignment: str) -> Conditioned[ConformerData]:
    """Fit the mean of the states given their inputs; that of centred conformers is zero, since all orientations are alike."""
    cards = tuple(input_card(name, given) for name, given in data.inputs.items())
    inputs = {part: {name: given.parts[part] for name, given in data.inputs.items()} for part in PARTS}
    states = {part: getattr(data, part) for part in PARTS}
    fitted = fit_regression if alignment == "superposed" else without_mean
    found = fit_mean(cards, inputs, states, data.normalisation, dropout, fitted)
    return Conditioned(replace(data, **found.residuals, conditions=found.conditions), data, found.conditioning, found.card)
