"""Targets of a denoiser from the energy of its data, which have less noise than the data themselves.

Given a noisy state x_t = alpha x_0 + sigma eps of data with the density exp(-U), both x_0 and x_t / alpha - r^2 grad U(x_0), with
r = sigma / alpha, have the mean E[x_0 | x_t] (De Bortoli et al. 2024, Target Score Matching). So has

    x_0 + (1 + r^2 F)^-1 (r eps - r^2 grad U(x_0)),        F = E[grad U grad U^T],

whatever the matrix F. With this one, which is the mean curvature of U, the target of Gaussian data has no noise at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.energies import EnergyConfig, gradient_of
from ...data.normalise import Normalisation
from ...data.turns import log_turns_gradient
from ...schema.topology import Topology
from ...theory.directions import orthogonal


@dataclass(frozen=True)
class EnergyTargets:
    """Corrections of the clean states as targets.

    Attributes:
        gradients: gradients of U in the states, [n, *event] float32.
        axes: eigenvectors [d, k] of F in the subspace of the states, float32.
        curvatures: eigenvalues [k] of F, float32.
    """

    gradients: Tensor
    axes: Tensor
    curvatures: Tensor

    @classmethod
    def of(cls, gradients: Tensor, constraint: Tensor) -> EnergyTargets:
        """Targets from gradients [n, *event] of U in the states, whose components along `constraint` are left out."""
        inside = orthogonal(gradients.to(torch.float64), constraint)
        flat = inside.flatten(1)
        products = flat.T @ flat / len(flat)
        # above all others, so that the constraint's directions are the last ones
        outside = 2 * products.trace() * constraint.to(products) @ constraint.to(products).T
        curvatures, axes = torch.linalg.eigh(products + outside)
        kept = slice(0, flat.shape[1] - constraint.shape[1])
        single, axes = inside.to(torch.float32), axes[:, kept].to(torch.float32).contiguous()
        return cls(single, axes, curvatures[kept].clamp(min=0).to(torch.float32))

    def correction(self, chosen: Tensor, ratio: Tensor, noise: Tensor) -> Tensor:
        """Return the correction of the states with numbers `chosen` [rows], given r [rows] and their noise [rows, *event]."""
        r = ratio.to(torch.float32).reshape(-1, *[1] * (noise.ndim - 1))
        away = (r * noise - r**2 * self.gradients[chosen]).flatten(1)
        gains = 1 / (1 + r.reshape(-1, 1) ** 2 * self.curvatures)
        found: Tensor = (gains * (away @ self.axes)) @ self.axes.T
        return found.reshape(noise.shape)


def conformer_targets(
    config: EnergyConfig, states: Tensor, normalisation: Normalisation, topology: Topology, constraint: Tensor
) -> EnergyTargets:
    """Targets of states [n, atoms, 3] of conformers, which are superposed if `constraint` has rotations.

    The density of superposed conformers has the energy U/kT less the logarithm of the volume of the rotated copies. Raises
    ValueError for an energy that is unknown or not finite.
    """
    positions = normalisation.decode(states)["coordinates"].astype(np.float64)
    slopes = gradient_of(config, topology)(positions)
    if constraint.shape[1] > 3:
        slopes = slopes - log_turns_gradient(positions, normalisation.mean[0])
    if wrong := int((~np.isfinite(slopes).all((1, 2))).sum()):
        raise ValueError(f"energy.name = {config.name!r}: its gradient is not finite at {wrong} of {len(states)} training frames")
    return EnergyTargets.of(torch.from_numpy(slopes * normalisation.scale[0]), constraint)
