"""The discrepancy of features, and scalars of an integrator that are tuned on a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import add_network, call, make_model, write_config

from piadm_hpc.analysis.mmd import features, mmd
from piadm_hpc.analysis.tuning import gaussian_shares, tune
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.run.resolve import make_sampler


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def gaussian(folder: Path) -> Path:
    return make_model(folder)


@pytest.fixture(scope="module")
def model(gaussian: Path, folder: Path) -> Model:
    return load_model(add_network(gaussian, folder / "network"))


def config(**changes: dict[str, object]) -> RunConfig:
    return RunConfig(model="m", **{"grid": {"kind": "power", "calls": 6}, **changes})


def test_discrepancy_is_zero_for_one_distribution_and_grows_with_a_difference(model: Model) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = model.reference.to("cpu", torch.float32)
    one, zero = torch.ones(()), torch.zeros(())

    def fields(scale: float, count: int = 80) -> torch.Tensor:
        white = torch.randn(count, *model.event_shape, generator=generator)
        drawn = reference.draw(white, one, zero)
        return features(drawn * scale, model.reference)

    real = fields(1.0)
    found = [mmd(fields(scale), real) for scale in (1.0, 1.3, 2.0)]
    assert abs(found[0]) < 0.02 < found[2] and found[0] < found[1] < found[2]
    assert mmd(real[:2], real[2:4]) == pytest.approx(mmd(real[2:4], real[:2]))
    with pytest.raises(ValueError, match="at least two samples of each, got 1 and 80"):
        mmd(real[:1], real)


def test_lambda_and_exponent_are_tuned_by_the_error(model: Model) -> None:
    run = config(chain={"integrator": "lambda-ddim"})
    made = tune(run, model, samples=2)
    assert made.by == "error" and made.calls == 6
    tried = [set(settings) for settings, _ in made.tried]
    assert tried[0] == set() and {"grid.exponent"} in tried and any("chain.lam" in keys for keys in tried)
    settings, least = made.best
    assert least == min(score for _, score in made.tried) < made.tried[0][1]
    # the output can be pasted into a configuration
    assert f"best: {' '.join(f'--set {key}={value}' for key, value in settings.items())}" in str(made)


def test_random_methods_are_tuned_by_features(model: Model) -> None:
    run = config(chain={"integrator": "roba"}, grid={"kind": "log-snr", "calls": 8})
    made = tune(run, model, samples=3)
    assert made.by == "mmd" and {key for settings, _ in made.tried for key in settings} == {"chain.lam_s", "chain.score_time"}
    with pytest.raises(ConfigError, match="roba is random"):
        tune(run, model, samples=2, by="error")


def test_the_gaussian_share_of_the_score_grows_with_noise(model: Model) -> None:
    x = make_sampler(config(), model).draw([0, 1, 2]).x
    shares = gaussian_shares(model, x)
    ratios, left = zip(*shares, strict=True)
    assert list(ratios) == sorted(ratios) and left[-1] < 1e-3 and all(0 <= share for share in left)


def test_the_command_prints_what_it_tried(folder: Path, gaussian: Path) -> None:
    path = write_config(folder / "run.toml", gaussian, folder / "out", chain={"integrator": "lambda-ddim-i-r"})
    report = call("tune", path, "--batch", 2, "--set", "grid.steps=5")
    assert report["code"] == 0 and report["out"].startswith("5 network calls; distance to the converged flow")
    assert "chain.lam = -0.25" in report["out"] and report["out"].splitlines()[-1].startswith("best:")
    report = call("tune", path, "--against", folder / "none.nc", "--batch", 2)
    assert report["code"] == 2 and "none.nc: cannot be compared with the samples" in report["err"]
    fields = call("tune", path, "--batch", 2, "--set", "grid.steps=5", "--by", "mmd", "--against", folder / "fields.nc")
    assert fields["code"] == 0 and "squared discrepancy of features" in fields["out"]


def test_the_device_of_the_configuration_is_the_one_that_tunes(
    folder: Path, gaussian: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is loaded onto the device of the run, if the host has it."""
    path = write_config(folder / "device.toml", gaussian, folder / "out")
    monkeypatch.setattr("piadm_hpc.run.execute.device_names", lambda: ["cpu", "cuda", "cuda:0", "cuda:1"])

    def loaded(model: str, device: str, **options: object) -> Model:
        raise ValueError(f"{Path(model).name} on {device}")

    monkeypatch.setattr("piadm_hpc.models.card.load_model", loaded)
    for device in ("cuda:1", "cpu"):
        assert call("tune", path, "--device", device)["err"].endswith(f" on {device}\n")
    assert call("tune", path)["err"].endswith(" on cuda:0\n"), "the first GPU where nothing is said"
