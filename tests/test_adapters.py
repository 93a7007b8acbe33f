"""Networks of other packages: every recipe of docs/adapters.md runs as printed there, with a network made here."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import call, write_config
from torch import Tensor, nn

from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.data.channels import Channel, Channels
from piadm_hpc.models.adapter_config import AdapterConfig, ScheduleSpec
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.models.schedules import alphas_cumprod, make_process
from piadm_hpc.run.resolve import make_sampler
from piadm_hpc.store.reading import open_run
from piadm_hpc.theory.process import Tabulated

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adapters.md"
OWN = '''
"""What a user would have: networks with conventions of their own."""

import torch


def denoiser(x, sigma):
    """E[x_0 | x] of a Gaussian of variance 0.25, and a bounded remainder."""
    weight = (0.25 / (0.25 + sigma**2))[:, None, None, None]
    return weight * x + 0.05 * torch.tanh(torch.roll(x, 1, -1)) * weight


def of_log_sigma(x, noise):
    """The same with EDM's noise level, ln(sigma) / 4."""
    return denoiser(x, torch.exp(4 * noise))


def forced(x, sigma, maps, scalars):
    """A Gaussian of variance 0.25 around the sum of both inputs."""
    mean = maps + scalars[:, :, None, None]
    return mean + (0.25 / (0.25 + sigma**2))[:, None, None, None] * (x - mean)


class Molecules(torch.nn.Module):
    """eps of a Gaussian of unit variance plus forces between atoms; sees padding only to check that it is empty."""

    def forward(self, x, fraction, mask):
        assert (x * (1 - mask)).abs().max() < 1e-6 and 0 <= fraction.min() <= fraction.max() <= 1
        square = (1 - 2e-5) * (1 - fraction**2) ** 2 + 1e-5
        eps = (1 - square).sqrt()[:, None, None] * x
        places = x[:, :, :3]
        apart = places[:, :, None] - places[:, None]
        push = (apart * torch.exp(-(apart**2).sum(-1, keepdim=True)) * mask[:, None]).sum(2)
        extra = torch.cat([push, 0.1 * torch.sin(x[:, :, 3:])], 2)
        eps = (eps + 0.2 * square.sqrt()[:, None, None] * extra) * mask
        mean = (eps * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return torch.cat([(eps - mean * mask)[:, :, :3], eps[:, :, 3:]], 2)


molecules = Molecules()
'''


class Field(nn.Module):
    """The velocity v of a Gaussian of unit variance, which is zero, plus a small term that depends on the index."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return 0.1 * torch.tanh(self.mix(x)) * torch.cos(index / 500)[:, None, None, None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make one folder per recipe, with the networks that they name."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "own_networks.py").write_text(OWN)
    sys.path.insert(0, str(folder))
    for text in re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        name = re.search(r'^name = "(\w+)"', text, re.MULTILINE)
        assert name is not None
        (folder / name[1]).mkdir()
        (folder / name[1] / "adapter.toml").write_text(text)
    torch.manual_seed(0)
    traced = torch.export.export(Field().eval(), (torch.zeros(4, 2, 8, 8), torch.zeros(4)))
    torch.export.save(traced, folder / "exported" / "network.pt2")
    make_unet(folder / "unet" / "unet")
    make_checkpoints(folder)
    sea = np.ones((8, 16))
    sea[3:5, :4] = 0
    grid = {"lat": np.linspace(70, -70, 8), "lon": np.arange(16) * 22.5}
    xr.Dataset({"sea": (("lat", "lon"), sea)}, grid).to_netcdf(folder / "sea" / "grid.nc")
    yield folder
    sys.path.remove(str(folder))


def make_checkpoints(folder: Path) -> None:
    from physicsnemo.diffusion.preconditioners import EDMPrecond, EDMPrecondSuperResolution
    from physicsnemo.models.diffusion_unets import CorrDiffRegressionUNet

    unet = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    sizes = {"img_resolution": 8, "img_out_channels": 1}
    EDMPrecond(img_channels=1, img_in_channels=2, label_dim=4, **sizes, **unet).save(str(folder / "downscaling/net.mdlus"))
    EDMPrecondSuperResolution(img_in_channels=2, **sizes, **unet).save(str(folder / "corrdiff/diffusion.mdlus"))
    CorrDiffRegressionUNet(img_in_channels=1, **sizes, **unet).save(str(folder / "corrdiff/regression.mdlus"))


def make_unet(folder: Path) -> None:
    from diffusers import UNet2DModel

    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(folder)


def drawn(folder: Path, model: Model, count: int, **sections: Any) -> Any:
    values = {"model": str(folder), "grid": {"steps": 24}, "chain": {"integrator": "gaussian"}, **sections}
    return make_sampler(RunConfig.model_validate(values), model).draw(range(count))


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("edm", {"temperature": (8, 16)}),
        ("unet", {"precipitation": (16, 16)}),
        ("sea", {"sst": (8, 16)}),
        ("molecules", {"coordinates": (5, 3), "category": (5, 4), "charge": (5,)}),
        ("exported", {"u": (8, 8), "v": (8, 8)}),
    ],
)
def test_every_recipe_runs(models: Path, tmp_path: Path, name: str, variables: dict[str, tuple[int, ...]]) -> None:
    config = write_config(tmp_path / "run.toml", models / name, tmp_path / "run", samples=3, solver={"tol": 1e-2})
    report = call("sample", config, "--allow-code")
    assert report["code"] == 0, report
    with open_run(tmp_path / "run") as dataset:
        for variable, shape in variables.items():
            assert dataset[variable].shape == (3, *shape)
            assert np.isfinite(dataset[variable].values).mean() == (1.0 if name != "sea" else 120 / 128)
        if name == "edm":
            assert 260 < dataset["temperature"].mean() < 300 and dataset["temperature"].attrs["units"] == "K"
        if name == "molecules":
            assert np.abs(dataset["coordinates"].values.mean(1)).max() < 1e-6


@pytest.mark.parametrize("name", ["forced", "downscaling", "corrdiff"])
def test_every_recipe_with_conditions_runs(models: Path, tmp_path: Path, name: str) -> None:
    """A recipe is run for two conditions, from the folder and a file with the variables that the recipe names."""
    generator = np.random.default_rng(0)
    rain = (("case", "y", "x"), generator.normal(0, 5, (2, 8, 16)), {"units": "mm"})
    wind = (("case", "y", "x"), generator.normal(0, 6, (2, 8, 8)), {"units": "m s-1"})
    variables = {
        "forced": {"rain": rain, "co2": ("case", [380.0, 450.0], {"units": "ppm"})},
        "downscaling": {"coarse_wind": wind, "season": ("case", [0, 3])},
        "corrdiff": {"coarse_wind": wind},
    }
    xr.Dataset(variables[name]).to_netcdf(tmp_path / "given.nc")
    config = write_config(
        tmp_path / "run.toml", models / name, tmp_path / "run", samples=2, condition={"file": str(tmp_path / "given.nc")}
    )
    report = call("sample", config, *(["--allow-code"] if name == "forced" else []))
    assert report["code"] == 0, report
    with open_run(tmp_path / "run") as dataset:
        field = dataset["temperature" if name == "forced" else "wind"]
        assert field.sizes["condition"] == field.sizes["realization"] == 2 and bool(np.isfinite(field).all())
        if name == "forced":
            mean = 280 + 12 * (np.asarray(rain[1]) / 5 + np.array([-0.4, 1.0])[:, None, None])
            assert float(np.corrcoef(field.values.mean(0).ravel(), mean.ravel())[0, 1]) > 0.9


def test_molecules_of_a_thousand_steps(models: Path) -> None:
    """A polynomial schedule of 1,000 indices, a node mask, centred positions: sweeps end where steps end, and nothing drifts."""
    model = load_model(models / "molecules", allow_code=True)
    assert model.event_shape == (8, 8) and model.constraint is not None and model.constraint.shape == (64, 3)
    results = {
        kind: drawn(models / "molecules", model, 4, grid={"steps": 60}, solver={"kind": kind, "tol": 1e-5})
        for kind in ("sequential", "picard")
    }
    one, other = (results[kind].x for kind in ("sequential", "picard"))
    assert (one - other).abs().max() < 1e-3 and bool(results["picard"].converged.all())
    assert float(results["picard"].rounds.max()) < 60
    for x in (one, other):
        assert x[:, 5:].abs().max() == 0  # padding
        assert x[:, :5, :3].mean(1).abs().max() < 1e-6  # centre of mass
    free = one[:, :5].flatten()
    assert 0.6 < float(free.std()) < 1.4
    decoded = model.decode(one)
    assert {name: values.shape for name, values in decoded.items()} == {
        "coordinates": (4, 5, 3),
        "category": (4, 5, 4),
        "charge": (4, 5),
    }
    torch.testing.assert_close(model.encode(decoded), one, atol=1e-5, rtol=1e-5)


def test_a_gaussian_network_gives_its_gaussian(tmp_path: Path) -> None:
    """From the exact eps-network of a Gaussian of unit variance, samples have unit variance whatever the schedule."""
    (tmp_path / "gaussian_eps.py").write_text(
        "import torch\n\ndef eps(x, snr):\n    return x * torch.sigmoid(-snr).sqrt()[:, None, None, None]\n"
    )
    sys.path.insert(0, str(tmp_path))
    for kind in ("polynomial", "cosine", "linear", "scaled-linear"):
        folder = tmp_path / kind
        folder.mkdir()
        text = f'name = "{kind}"\ngrid = [8, 8]\nchannels = [{{name = "u"}}]\n'
        network = '[network]\ncallable = "gaussian_eps:eps"\ntime = "log-snr"\n'
        (folder / "adapter.toml").write_text(f'{text}{network}[schedule]\nkind = "{kind}"\nsteps = 1000\n')
        x = drawn(folder, load_model(folder, allow_code=True), 64).x
        assert float(x.std()) == pytest.approx(1.0, abs=0.04) and abs(float(x.mean())) < 0.05, kind
    sys.path.remove(str(tmp_path))


def test_schedules_are_those_of_their_packages() -> None:
    """Schedules are compared with diffusers' own tables, and the polynomial one with its values at both ends."""
    from diffusers import DDPMScheduler

    for kind, theirs in (("linear", "linear"), ("scaled-linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")):
        table = DDPMScheduler(num_train_timesteps=1000, beta_schedule=theirs, beta_start=1e-4, beta_end=0.02).alphas_cumprod
        ours = alphas_cumprod(ScheduleSpec.model_validate({"kind": kind, "steps": 1000}))
        torch.testing.assert_close(ours.float(), table, rtol=2e-4, atol=1e-7)
    polynomial = alphas_cumprod(ScheduleSpec.model_validate({"kind": "polynomial", "steps": 1000}))
    assert float(polynomial[0]) == pytest.approx(1 - 1e-5) and float(polynomial[500]) == pytest.approx(0.75**2, rel=1e-4)


def test_between_indices_the_log_snr_is_linear() -> None:
    process, (horizon, delta) = make_process(ScheduleSpec.model_validate({"kind": "cosine", "steps": 100}))
    assert isinstance(process, Tabulated) and horizon == 99 and delta == 0.5
    t = torch.tensor([3.0, 3.5, 4.0], dtype=torch.float64)
    snr = torch.log(process.alpha(t) ** 2 / process.sigma(t) ** 2)
    assert float(snr[1]) == pytest.approx(float(snr[0] + snr[2]) / 2)
    theta = torch.log1p(torch.exp(-snr))
    torch.testing.assert_close(process.time(theta), t)
    assert math.isclose(float(process.alpha(t[1]) ** 2 + process.sigma(t[1]) ** 2), 1.0)


def test_channels_go_round() -> None:
    codec = Channels((Channel("u", 1, 2.0, 1.0), Channel("wind", 2, 3.0)), (3, 4, 5), 0)
    x = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    decoded = codec.decode(x)
    assert decoded["u"].shape == (6, 4, 5) and decoded["wind"].shape == (6, 2, 4, 5)
    torch.testing.assert_close(codec.encode(decoded), x, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no wind"):
        codec.encode({"u": decoded["u"]})
    with pytest.raises(ValueError, match="does not fit"):
        codec.encode({"u": decoded["u"], "wind": decoded["u"]})
    with pytest.raises(ValueError, match="channels of 3 components"):
        Channels((Channel("u", 3),), (2, 4, 5), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {}}, "give one of callable, diffusers, exported and mdlus, not 0"),
        ({"network": {"callable": "a:b", "exported": "c"}}, "not 2"),
        ({"network": {"callable": "no such name"}}, "network.callable"),
        ({"grid": [4, 4], "atoms": [3]}, "either atoms"),
        ({"grid": None}, "either atoms"),
        ({"grid": None, "atoms": [3, 4], "nodes": 5}, "7 atoms do not fit into 5 nodes"),
        ({"grid": None, "atoms": [2], "elements": ["C"]}, "1 elements for 2 atoms"),
    ],
)
def test_what_does_not_fit_is_told(change: dict[str, Any], message: str) -> None:
    values = {"name": "x", "network": {"callable": "a:b"}, "channels": [{"name": "u"}], "grid": [4, 4], **change}
    with pytest.raises(ValueError, match=message):
        AdapterConfig.model_validate(values)


def test_networks_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "adapter.toml").write_text(
        'name = "x"\ngrid = [4, 4]\nchannels = [{name = "u"}]\n[network]\nexported = "absent.pt2"\n'
    )
    with pytest.raises(ValueError, match=r"absent\.pt2: no such network"):
        load_model(tmp_path, allow_code=True)
    (tmp_path / "adapter.toml").write_text(
        'name = "x"\ngrid = [4, 4]\nchannels = [{name = "u"}]\n[network]\ncallable = "no_package:f"\n'
    )
    with pytest.raises(ConfigError, match="no_package cannot be imported"):
        load_model(tmp_path, allow_code=True)
    (tmp_path / "adapter.toml").write_text(
        'name = "x"\ngrid = [4, 4]\nchannels = [{name = "u"}]\n[network]\ncallable = "math:sqr"\n'
    )
    with pytest.raises(ConfigError, match="did you mean sqrt"):
        load_model(tmp_path, allow_code=True)
