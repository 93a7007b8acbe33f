"""Importance weights agree with closed forms: Gaussians, volumes of rotations, a model weighted to its own density."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import RUN, make_model, write_config
from scipy.spatial.transform import Rotation

from piadm_hpc.analysis.verify.conformers import Surface
from piadm_hpc.analysis.verify.verification import verify
from piadm_hpc.analysis.verify.weighted import free_energy_distance
from piadm_hpc.analysis.weights.importance import Importance, bootstrap, normalised, resampled
from piadm_hpc.analysis.weights.weighing import WEIGHTS, stored_weights, weigh
from piadm_hpc.cli.main import main
from piadm_hpc.data.conformer_files import read_stored
from piadm_hpc.data.energies import energy_of, lennard_jones
from piadm_hpc.data.superpose import centred, rigid_motions, superposed
from piadm_hpc.data.turns import log_turns
from piadm_hpc.models.card import HELD_OUT
from piadm_hpc.models.registry import find_model
from piadm_hpc.store.arrays import read_arrays
from piadm_hpc.store.reading import open_run

PLUGIN = """
import numpy as np
import torch
from piadm_hpc.gaussian.density import log_density
from piadm_hpc.models.card import load_model
from piadm_hpc.models.volume import log_volume

def energy(fields) -> None:
    model = load_model({model!r})
    x = model.encode({{"tas": fields}}).double()
    own = log_density(model.reference, model.process, x, torch.tensor(model.delta, dtype=torch.float64))
    return (log_volume(model, x) - own).numpy()

def short(fields) -> None:
    return np.zeros(1)

def fails(fields) -> None:
    return 1 / 0

def words(fields) -> None:
    return "low"
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a Gaussian model with log-densities, and a module `own_energy` whose Boltzmann distribution the model is."""
    folder = tmp_path_factory.mktemp("weights")
    model = make_model(folder)
    config = write_config(folder / "run.toml", model, folder / "run", samples=8, density={"enabled": True}, **_double())
    assert main(["sample", str(config)]) == 0
    (folder / "own_energy.py").write_text(PLUGIN.format(model=str(model)))
    sys.path.insert(0, str(folder))
    return folder / "run"


def _double() -> dict[str, dict[str, str]]:
    return {"compute": {"precision": "float64"}}


def test_a_gaussian_has_the_effective_share_of_its_closed_form() -> None:
    """For N(0, s^2) weighted to N(0, 1) in d dimensions, E[w] = 1 and E[w^2] = (s^2 / sqrt(2 s^2 - 1))^d."""
    s, d, n = 1.2, 4, 20_000
    x = s * np.random.default_rng(0).normal(size=(n, d))
    logs = -0.5 * (x**2).sum(1) + 0.5 * (x**2).sum(1) / s**2 + d * math.log(s)
    found = Importance.of(logs)
    assert found.effective == pytest.approx((math.sqrt(2 * s**2 - 1) / s**2) ** d, rel=0.03)
    assert found.log_mean == pytest.approx(0, abs=0.03) and found.shape < 0.3 and not found.warnings


def test_a_narrow_proposal_is_not_trusted() -> None:
    """The weights of N(0, 0.5^2) as a proposal for N(0, 1) have infinite variance."""
    x = 0.5 * np.random.default_rng(0).normal(size=2000)
    found = Importance.of(-0.5 * x**2 + 0.5 * x**2 / 0.25)
    assert found.shape > 0.7 and "do not trust" in found.warnings[0]


def test_excluded_samples_weigh_nothing_and_wrong_ones_are_refused() -> None:
    logs = np.concatenate([np.random.default_rng(0).normal(size=50), [-np.inf]])
    found = Importance.of(logs)
    assert normalised(found.log_weight)[-1] == 0 and np.isneginf(found.smoothed[-1])
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinite"):
            Importance.of(np.append(logs, wrong))
    with pytest.raises(ValueError, match="3 are usable"):
        Importance.of(np.zeros(3))


def test_resampling_keeps_expected_numbers_and_bootstrap_knows_a_mean() -> None:
    logs = np.random.default_rng(1).normal(size=40)
    copies = resampled(logs, 1000)
    assert copies.sum() == 1000 and (np.abs(copies - 1000 * normalised(logs)) < 1).all()
    values = np.random.default_rng(2).normal(size=400)
    error = bootstrap(lambda times: (times * values).sum() / times.sum(), 400)
    assert float(error) == pytest.approx(values.std() / 20, rel=0.15)


def test_the_volume_of_turned_frames_is_a_jacobian() -> None:
    """It is the determinant of (frame, rotation) -> positions by central differences, for some frames of five atoms."""
    generator = np.random.default_rng(0)
    centre = centred(generator.normal(size=(5, 3)))
    frames = superposed(centre + 0.3 * generator.normal(size=(4, 5, 3)), centre)
    motions = rigid_motions(centre, turns=True)
    inside = np.linalg.svd(np.eye(15) - motions @ motions.T)[0][:, :9]
    shifts = rigid_motions(centre, turns=False)
    space = np.linalg.svd(np.eye(15) - shifts @ shifts.T)[0][:, :12]

    def place(frame: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        moved = (frame.reshape(-1) + inside @ parameters[:9]).reshape(5, 3)
        return space.T @ Rotation.from_rotvec(parameters[9:]).apply(moved).reshape(-1)

    step = 1e-5
    volumes = []
    for frame in frames:
        columns = [(place(frame, step * e) - place(frame, -step * e)) / (2 * step) for e in np.eye(12)]
        volumes.append(np.linalg.slogdet(np.stack(columns, axis=1))[1])
    found = log_turns(frames, centre)
    assert np.allclose(found - found[0], np.array(volumes) - volumes[0], atol=1e-6)
    # a rotation by half a turn is stationary too, but is not a superposition
    assert np.isneginf(log_turns(frames * np.array([1, -1, -1]), centre)).all()


def test_energies_in_closed_form_and_by_openmm() -> None:
    pair = np.zeros((1, 2, 3))
    pair[0, 1, 0] = 1.0  # at the minimum of the pair potential: -2 kT, and 1/4 for the two atoms' distance from their mean
    assert lennard_jones(pair)[0] == pytest.approx(-2 + 0.25)
    stored = read_stored(find_model("alanine-dipeptide") / HELD_OUT, slice(0, 400))
    assert stored is not None
    energy = energy_of("openmm", stored.topology)(stored.positions[::20])
    turned = energy_of("openmm", stored.topology)(stored.positions[:1] @ Rotation.from_rotvec([0.3, 0.2, 0.1]).as_matrix())
    assert turned[0] == pytest.approx(energy[0], abs=1e-6)
    colder = energy_of("openmm", stored.topology, temperature=150.0)(stored.positions[:1])
    assert colder[0] == pytest.approx(2 * energy[0], rel=1e-9)
    # the frames were simulated in this force field at 300 K, where the mean is -25.7 kT with a deviation of 5.4
    assert energy.mean() == pytest.approx(-25.7, abs=4)
    for name, topology in (("nothing", stored.topology), ("openmm", None)):
        with pytest.raises(ValueError, match="module:callable"):
            energy_of(name, topology)
    with pytest.raises(ValueError, match="--force-field none"):
        energy_of("openmm", stored.topology, force_field=["none.xml"])


def test_a_model_weighed_towards_its_own_density_has_equal_weights(drawn: Path) -> None:
    """The density of the flow and the volume of decoding agree with the closed form of the reference in physical units."""
    text = weigh(drawn, energy="own_energy:energy", resample=16)
    arrays, facts = read_arrays(drawn / WEIGHTS)
    with open_run(drawn) as dataset:
        ids = dataset["realization"].values
        assert dataset["log_density"].dtype == np.float64 and (dataset["log_density_variance"] == 0).all()
        assert np.allclose(arrays["reduced_energy"].values, -dataset["log_density"].values, rtol=1e-5)
    assert np.ptp(arrays["log_weight"].values) < 2e-3  # the stored fields are rounded to single precision
    assert arrays["copies"].values.tolist() == [2] * 8
    assert float(facts["log_mean_weight"]) == pytest.approx(0, abs=2e-3)
    assert "effective share" in text and "draw more samples" in text
    found = stored_weights(drawn, ids)
    assert found is not None and np.array_equal(found[0], arrays["log_weight"].values)
    with pytest.raises(ValueError, match="does not hold the weights of these samples"):
        stored_weights(drawn, ids[:-1])


def test_what_cannot_be_weighed_is_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the samples are not conformers"):
        weigh(drawn, energy="openmm")
    wrong = {"short": r"returned float64 \(1,\) for 8", "words": "return U/kT of each", "fails": "failed: ZeroDivisionError"}
    for name, words in wrong.items():
        with pytest.raises(ValueError, match=words):
            weigh(drawn, energy=f"own_energy:{name}")
    with pytest.raises(ValueError, match="give a number of samples"):
        weigh(drawn, energy="own_energy:energy", resample=0)
    with pytest.raises(ValueError, match="temperature above zero"):
        weigh(drawn, energy="own_energy:energy", temperature=0)
    model = drawn.parent / "gaussian"
    assert main(["sample", str(write_config(tmp_path / "run.toml", model, tmp_path / "run", **RUN))]) == 0
    with pytest.raises(ValueError, match="piadm sample --density"):
        weigh(tmp_path / "run", energy="own_energy:energy")


@pytest.mark.parametrize(("chain", "words"), [({"integrator": "ddim"}, "integrator = 'ddim'"), ({"eta": 1.0}, "eta = 1")])
def test_densities_of_another_chain_are_refused(
    tmp_path: Path, chain: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "run.toml", Path("ccsm-temperature"), tmp_path / "run", chain=chain)
    assert main(["sample", str(config), "--density"]) == 2
    assert words in capsys.readouterr().err


def test_free_energies_are_as_far_apart_as_their_errors_make_them() -> None:
    """Samples of the reference's distribution lie at the expected distance, others farther away until they are weighted."""
    generator = np.random.default_rng(0)
    edges = (np.linspace(-3, 3, 37),) * 2
    density = np.exp(-0.5 * (edges[0][:-1] + 1 / 12) ** 2)
    surface = Surface("example", edges, np.zeros((36, 36)), np.outer(density, density) / density.sum() ** 2, 0.0, 0.0, 0.0)
    equal = np.full(3000, 1 / 3000)
    own, other = generator.normal(size=(3000, 2)), generator.normal(0.4, 1.2, size=(3000, 2))
    distance, expected = free_energy_distance(surface, own, equal)
    assert 0.6 * expected < distance < 1.6 * expected
    logs = (-(other**2) / 2 + ((other - 0.4) / 1.2) ** 2 / 2).sum(1)
    far, near = free_energy_distance(surface, other, equal), free_energy_distance(surface, other, normalised(logs))
    assert far[0] > 2.5 * far[1] and near[0] < 1.6 * near[1]


def test_weights_enter_the_verification_of_conformers(tmp_path: Path) -> None:
    """Weights of a few conformers of the shipped molecule are written, and `verify` shows their effect."""
    run = tmp_path / "run"
    small = ["--set", "output.batch=12", "--set", "grid.steps=12", "--set", "solver.tol=0.1"]
    assert main(["sample", "--model", "alanine-dipeptide", "--samples", "12", "--density", "--out", str(run), *small]) in (0, 3)
    with open_run(run) as dataset:
        assert bool((dataset["log_density_error"] > 0).all()) and bool((dataset["rounds"] >= 2).all())
    weigh(run, energy="openmm")
    arrays, _ = read_arrays(run / WEIGHTS)
    text = verify(run)
    assert "Weights" in text and "k-hat" in text and "+-" in text and "distance of free energies [kT]" in text
    assert f"{1 / (normalised(arrays['log_weight'].values) ** 2).sum():.0f}" in text
