"""Training with energies: gradients, targets that are exact on Gaussians, and models whose training is continued."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from piadm_hpc.config.validation import ConfigError
from piadm_hpc.data.energies import EnergyConfig, energy_of, gradient_of
from piadm_hpc.data.superpose import centred, superposed
from piadm_hpc.data.turns import log_turns, log_turns_gradient
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import ConformerTrainConfig
from piadm_hpc.models.training.command import train
from piadm_hpc.models.training.conformer_data import read_conformers
from piadm_hpc.models.training.energy_targets import EnergyTargets, conformer_targets
from piadm_hpc.schema.topology import Atom, Topology

REAL = Path(__file__).parent / "data" / "alanine"
F64 = torch.float64
CLUSTER = Topology(tuple(Atom("AR", "Ar", "CLU", 1) for _ in range(5)))
OPENMM = EnergyConfig(name="openmm")

PLUGIN = """
import torch

def spring(positions):
    return ((positions - positions.mean(1, keepdim=True)) ** 2).sum((1, 2)) * 50

def plain(positions):
    return [0.0] * len(positions)
"""


def settings(output: Path, **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": output.name,
        "output": str(output),
        "data": {"trajectories": ["walker_?.h5"], "test_files": ["walker_1.h5"]},
        "optimiser": {"steps": 4, "batch": 64, "rate": 1e-4, "warm_up": 0, "validate_every": 2, "ema": 0.5},
    }
    return record | changes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of alanine dipeptide, trained for a second."""
    folder = tmp_path_factory.mktemp("energies")
    return train(
        settings(folder / "small", network={"width": 32, "depth": 1, "embedding": 16}), root=REAL, report=lambda line: None
    )


def test_gradients_are_those_of_the_energies() -> None:
    """Lennard-Jones energies and the volume of rotated copies are differentiated numerically along random directions."""
    generator = np.random.default_rng(0)
    centre = centred(generator.normal(size=(5, 3)))
    x = superposed(centre + 0.1 * generator.normal(size=(4, 5, 3)), centre)
    way = centred(generator.normal(size=(4, 5, 3)))
    step = 1e-5
    for value, slope in (
        (energy_of("lennard-jones", CLUSTER), gradient_of(EnergyConfig(name="lennard-jones"), CLUSTER)),
        (lambda at: log_turns(at, centre), lambda at: log_turns_gradient(at, centre)),
    ):
        difference = (value(x + step * way) - value(x - step * way)) / (2 * step)
        assert np.allclose((slope(x) * way).sum((1, 2)), difference, rtol=1e-5)


def test_gradients_of_superposed_conformers_are_those_of_their_density() -> None:
    """U/kT less the volume of rotated copies, a function of states, is differentiated numerically within their subspace."""
    config = ConformerTrainConfig.model_validate(settings(REAL / "none"))
    data = read_conformers(config.data, REAL, seed=0)
    states, centre = data.train[:3].double(), data.normalisation.mean[0]
    found = conformer_targets(OPENMM, states, data.normalisation, data.topology, data.constraint)
    assert found.axes.shape == (66, 60) and float(found.curvatures.min()) >= 0
    assert float((found.axes.T.double() @ data.constraint).abs().max()) < 1e-5
    assert float((found.gradients.flatten(1) @ data.constraint.float()).abs().max()) < 1e-3 * float(found.gradients.abs().max())
    energy = energy_of("openmm", data.topology)

    def density(at: torch.Tensor) -> np.ndarray:
        positions = at.numpy() * data.normalisation.scale[0] + centre
        return energy(positions) - log_turns(positions, centre)

    way = torch.randn(3, 66, dtype=F64, generator=torch.Generator().manual_seed(0))
    way = (way - (way @ data.constraint) @ data.constraint.T).reshape(states.shape)
    difference = (density(states + 1e-5 * way) - density(states - 1e-5 * way)) / 2e-5
    assert np.allclose((found.gradients.double() * way).sum((1, 2)).numpy(), difference, rtol=1e-3)


def test_the_target_of_a_gaussian_is_its_posterior_mean() -> None:
    """The target has no variance at any noise level, in the subspace of the states."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(6, 6, dtype=F64, generator=generator))[0]
    inside, variances = axes[:, :5], torch.tensor([1e-3, 0.1, 1.0, 2.0, 30.0], dtype=F64)
    x = (torch.randn(40, 5, dtype=F64, generator=generator) * variances.sqrt()) @ inside.T
    gradients = (x @ inside / variances) @ inside.T
    targets = EnergyTargets(gradients.float(), inside.float(), (1 / variances).float())
    noise, ratio = torch.randn(40, 6, dtype=F64, generator=generator), torch.logspace(-3, 2, 40, dtype=F64)
    found = x + targets.correction(torch.arange(40), ratio, noise.float())
    seen = (x + ratio[:, None] * noise) @ inside
    mean = (seen * variances / (variances + ratio[:, None] ** 2)) @ inside.T
    assert torch.allclose(found, mean.double(), atol=1e-4)


def test_corrections_have_no_mean_given_the_noisy_state_and_lessen_the_noise() -> None:
    """In a double well their products with functions of the noisy state vanish within four standard errors."""
    generator = torch.Generator().manual_seed(1)
    grid = torch.linspace(-3, 3, 4001, dtype=F64)
    chances = torch.exp(-4 * (grid**2 - 1) ** 2)
    x = grid[torch.multinomial(chances, 200_000, replacement=True, generator=generator)][:, None]
    slopes = 16 * x * (x**2 - 1)
    targets = EnergyTargets.of(slopes, torch.zeros(1, 0, dtype=F64))
    for r in (0.1, 0.3, 1.0):
        noise = torch.randn(x.shape, dtype=F64, generator=generator)
        change = targets.correction(torch.arange(len(x)), torch.full((len(x),), r), noise.float()).double()
        y = x + r * noise
        for function in (torch.ones_like(y), y, torch.tanh(3 * y), torch.cos(2 * y)):
            product = change * function
            assert abs(float(product.mean())) < 4 * float(product.std()) / len(x) ** 0.5
        least = torch.cat([torch.ones_like(y), y, y**2, y**3, torch.tanh(y / r)], 1)
        noises = [float((z - least @ torch.linalg.lstsq(least, z).solution).square().mean()) for z in (x, x + change)]
        assert noises[1] < noises[0] * (0.2 if r == 0.1 else 1.0)


def test_training_goes_on_with_the_energy(model: Path, tmp_path: Path) -> None:
    """Coordinates, reference and held-out frames stay, the weights change, and the card names the model that was continued."""
    lines: list[str] = []
    made = train(
        settings(
            tmp_path / "tuned",
            initial=str(model),
            energy={"name": "openmm"},
            data={"trajectories": ["walker_0.h5"]},
            noise={"lowest": 5.0, "highest": 11.0},
        ),
        root=REAL,
        report=lines.append,
    )
    before, after = load_model(model), load_model(made)
    assert any("gradients of the energy openmm" in line for line in lines)
    assert np.array_equal(before.normalisation.mean, after.normalisation.mean)  # type: ignore[union-attr]
    assert torch.equal(before.reference.spectrum, after.reference.spectrum)
    assert (made / "held_out.h5").read_bytes() == (model / "held_out.h5").read_bytes()
    assert after.card["training"]["config"]["initial"] == str(model) and after.card["network"] == before.card["network"]
    assert after.card["process"]["log_snr_trained"] == before.card["process"]["log_snr_trained"] == [-8.0, 11.0]
    x, t = torch.randn(2, 22, 3, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.01)
    assert 0 < float((before.score(x, t) - after.score(x, t)).abs().max()) < 0.5 * float(before.score(x, t).abs().max())


def test_a_function_of_the_user_is_differentiated(tmp_path: Path) -> None:
    (tmp_path / "own_springs.py").write_text(PLUGIN)
    sys.path.insert(0, str(tmp_path))
    x = centred(np.random.default_rng(0).normal(size=(2, 5, 3)))
    assert np.allclose(gradient_of(EnergyConfig(name="own_springs:spring"), CLUSTER)(x), 100 * x)
    with pytest.raises(ValueError, match="training needs its gradient"):
        gradient_of(EnergyConfig(name="own_springs:plain"), CLUSTER)(x)


def test_what_cannot_go_on_is_refused(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    for changes, words in (
        ({"initial": str(model), "network": {"width": 16}}, "it is that of initial"),
        ({"energy": {"name": "openmm"}, "network": "none"}, "leave one of energy and network"),
        ({"energy": {"name": "openmm", "temperature": 0}}, "energy.temperature: must be more than 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            train(settings(out, **changes), root=REAL)
    centred_frames = {"trajectories": ["walker_0.h5"], "alignment": "centred"}
    for changes, words in (
        ({"initial": "ccsm-temperature"}, "a trained model of conformers, which this is not"),
        ({"initial": "nowhere"}, "no such model folder"),
        ({"energy": {"name": "amber"}}, "use openmm, lennard-jones"),
        ({"initial": str(model), "data": centred_frames}, "with the same data.alignment"),
    ):
        with pytest.raises(ValueError, match=words):
            train(settings(out, **changes), root=REAL, report=lambda line: None)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (EnergyConfig(name="opnmm"), "energy.name 'opnmm': use openmm, lennard-jones, or module:callable"),
        (EnergyConfig(name="nowhere:energy"), "energy.name"),
        (EnergyConfig(name="openmm", force_field=("none.xml",)), "energy.force_field none.xml: "),
    ],
)
def test_mistakes_name_the_keys_of_the_recipe(config: EnergyConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words) as found:
        gradient_of(config, CLUSTER)
    assert "--" not in str(found.value)
