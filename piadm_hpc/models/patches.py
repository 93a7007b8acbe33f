"""Domains larger than a model's grid: scores of overlapping patches, averaged (multi-diffusion, Bar-Tal et al. 2023).

On a periodic domain only what the network adds to its own Gaussian is averaged, on top of the score of the domain's Gaussian,
which is exact at all scales: s(x) = s_G(x) + mean over patches of s_p(x_p) - s_G,p(x_p). A Gaussian model is then sampled
without seams. On a domain with edges the scores themselves are averaged, and the Gaussian only preconditions sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..config.domain import DomainConfig
from ..config.validation import ConfigError
from ..data.grids import geographic
from ..data.normalise import Normalisation
from ..gaussian.reference import GaussianReference
from ..gaussian.stationary import stationary
from ..schema.conditions import Condition, apply_to_leaves
from ..schema.layout import Coordinate
from ..theory.process import Process
from .base import ScoreModel
from .conditioning import Conditioning, Tree
from .model import Model
from .tiling import Tiling

ALIKE = 0.25  # standard deviations by which the mean may differ between points of a homogeneous grid


@dataclass(frozen=True)
class PatchedScore:
    """The score of states [rows, *domain]; every row is one call of the patch model's score.

    `small` and `large` are the Gaussian references of a patch and of the domain; without `large` the scores themselves are
    averaged.
    """

    score: ScoreModel
    tiling: Tiling
    process: Process
    small: GaussianReference
    large: GaussianReference | None

    def __call__(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        averaged = torch.cat([self._row(x[k : k + 1], t[k : k + 1], k, *condition) for k in range(len(x))])
        return averaged if self.large is None else averaged + self.large.to(x.device, x.dtype).score(self.process, x, t)

    def _row(self, x: Tensor, t: Tensor, row: int, *condition: Condition) -> Tensor:
        """The averaged scores of one state, less those of the patches' Gaussian where the domain's is added."""
        patches, times = self.tiling.cut(x), t.expand(len(self.tiling.places))
        given = [apply_to_leaves(each, lambda values: self._given(values[row : row + 1])) for each in condition]
        scores = self.score(patches.clone(), times.clone(), *given)
        if self.large is not None:
            scores = scores - self.small.to(x.device, x.dtype).score(self.process, patches, times)
        return self.tiling.blend(scores)

    def _given(self, values: Tensor) -> Tensor:
        """Maps cut into patches, and numbers repeated for all of them."""
        return self.tiling.cut(values) if values.ndim > 2 else values.expand(len(self.tiling.places), *values.shape[1:])


@dataclass(frozen=True)
class PatchedConditioning(Conditioning):
    """Encodes the inputs of a domain patch by patch with `own`, and blends the maps; see `Conditioning`."""

    own: Conditioning
    tiling: Tiling

    def encode(self, values: Mapping[str, np.ndarray]) -> Tree:
        """Encode inputs in their own units, by name: maps [n, *domain] and numbers [n]."""
        count = len(self.tiling.places)
        cut = {
            name: np.repeat(given, count, axis=0) if given.ndim == 1 else self.tiling.cut(torch.from_numpy(given.copy())).numpy()
            for name, given in ((name, np.asarray(given)) for name, given in values.items())
        }
        tree = self.own.encode(cut)
        return {"maps": self.tiling.blend(tree["maps"]), "numbers": tree["numbers"][::count]}


def patched(model: Model, shape: Sequence[int], *, overlap: int | None = None, periodic: bool = True) -> Model:
    """Return a model of a domain of `shape` (rows, columns) that is covered by overlapping patches of a model's grid.

    Neighbouring patches share at least `overlap` points, by default half a patch. Raises ConfigError that lists all reasons why
    the model cannot be used on patches: a globe, gaps, several variables, an inhomogeneous grid.
    """
    if mistakes := _mistakes(model):
        raise ConfigError("; ".join(f"domain.shape: the model {model.name} {each}" for each in mistakes))
    own = model.conditioning
    assert isinstance(model.normalisation, Normalisation) and isinstance(own, Conditioning | None)
    rows, columns = model.event_shape
    size = int(shape[0]), int(shape[1])
    try:
        tiling = Tiling(size, (rows, columns), min(rows, columns) // 2 if overlap is None else overlap, periodic)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    device = model.reference.mean.device
    large = stationary(model.reference, size).to(device, torch.float64)
    score = PatchedScore(model.score, tiling, model.process, replace(model.reference, response=None), large if periodic else None)
    normalisation = _normalised(model.normalisation, size)
    return replace(
        model,
        score=score,
        denoiser=None,
        event_shape=size,
        reference=large,
        layout=replace(model.layout, coordinates=domain_grid(model.layout.coordinates, size)),
        normalisation=normalisation,
        conditioning=None if own is None else PatchedConditioning(own.inputs, own.regression, normalisation, own, tiling),
    )


def of_domain(model: Model, domain: DomainConfig) -> Model:
    """Return the model that a run samples: of its configured domain, or of its own grid."""
    return model if domain.shape is None else patched(model, domain.shape, overlap=domain.overlap, periodic=domain.periodic)


def domain_grid(grid: Mapping[str, Coordinate], shape: Sequence[int]) -> dict[str, Coordinate]:
    """The coordinates of a domain, which continue those of the grid."""
    return {
        name: replace(given, values=given.values[0] + (given.values[1] - given.values[0]) * np.arange(size))
        for (name, given), size in zip(grid.items(), shape, strict=True)
    }


def _normalised(own: Normalisation, shape: tuple[int, int]) -> Normalisation:
    """One mean and one scale for all points of the domain."""
    mean, scale = (np.full((1, *shape), float(values.mean())) for values in (own.mean, own.scale))
    return replace(own, mean=mean, scale=scale, mask=np.ones((1, *shape), dtype=bool))


def _mistakes(model: Model) -> list[str]:
    """List the reasons why a model cannot be used on patches."""
    if model.constraint is not None or len(model.event_shape) != 2 or not isinstance(model.normalisation, Normalisation):
        return ["is not one of fields of one variable on rows and columns, which patches are made of"]
    found, grid, own = [], model.layout.coordinates, model.normalisation
    if not isinstance(model.conditioning, Conditioning | None):
        found.append("is given conditions as another package has them, which are not cut into patches")
    if model.process.fields > 1:
        found.append("is one of position and momentum; patches need a network of the position alone")
    if model.card.get("wrap", False) or geographic(grid):
        found.append("is one of the globe, or goes on at its opposite edge; train on windows with data.wrap = false")
    if model.mask is not None:
        found.append("has points without data, which patches would have everywhere")
    steps = [np.diff(given.values.astype(np.float64)) for given in grid.values()]
    if not all(np.allclose(step, step[0]) for step in steps):
        found.append("has coordinates that are not evenly apart")
    if np.ptp(own.scale) > 1e-6 * own.scale.max() or own.mean.std() > ALIKE * own.scale.mean():
        found.append(
            'has points that are not alike; train with data.scale = "global" on fields whose mean is the same everywhere'
        )
    return found
