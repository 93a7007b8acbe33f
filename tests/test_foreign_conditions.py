"""Conditional networks of other packages: callables, torch.export, diffusers, physicsnemo, and models like CorrDiff."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import call, one_line
from torch import Tensor, nn

from piadm_hpc.models.adapter_condition import ForeignConditioning
from piadm_hpc.models.card import load_model
from piadm_hpc.models.mdlus import read_arguments
from piadm_hpc.schema.conditions import rows_of
from piadm_hpc.store.reading import open_run

VARIANCE = 0.25
LAT, LON = np.linspace(70, -70, 8), np.arange(16) * 22.5
EDM = '[schedule]\nkind = "edm"\nhorizon = 80.0\ndelta = 0.01\n'
LOW = '[[condition.inputs]]\nname = "low"\nkind = "map"\nunits = "K"\nscale = 2.0\noffset = 280.0\n'
FORCING = '[[condition.inputs]]\nname = "forcing"\nkind = "scalar"\nunits = "W m-2"\nscale = 1.0\n'
SCENARIO = '[[condition.inputs]]\nname = "scenario"\nkind = "class"\nclasses = 3\nnull = 3\n'
TEXT = '[[condition.inputs]]\nname = "text"\nkind = "embedding"\nshape = [2, 4]\n'


def level(t: Tensor) -> Tensor:
    return t.reshape(-1, 1, 1, 1)


def gaussian(x: Tensor, sigma: Tensor, mean: Tensor) -> Tensor:
    """E[x_0 | x] of a Gaussian of variance VARIANCE around `mean`."""
    return mean + VARIANCE / (VARIANCE + level(sigma) ** 2) * (x - mean)


def given_everything(x: Tensor, sigma: Tensor, maps: Tensor, scalars: Tensor, classes: Tensor) -> Tensor:
    """A Gaussian whose mean is (map + scalar) times (class + 1); the fourth class stands for no condition."""
    assert maps.shape[1:] == (1, *x.shape[2:]) and scalars.shape == (len(x), 1) and classes.dtype == torch.int64
    factor = torch.where(classes == 3, 0, classes + 1).to(x)
    return gaussian(x, sigma, level(factor) * (maps + level(scalars[:, 0])))


@pytest.fixture(autouse=True)
def networks() -> Iterator[types.ModuleType]:
    """A module that holds the networks of a test, so that adapter.toml can name them."""
    module = types.ModuleType("conditional_nets")
    sys.modules[module.__name__] = module
    module.everything = given_everything  # type: ignore[attr-defined]
    yield module
    del sys.modules[module.__name__]


def adapter(
    folder: Path, network: str, *inputs: str, grid: tuple[int, int] = (8, 16), more: str = "", schedule: str = EDM
) -> Path:
    folder.mkdir(exist_ok=True)
    coordinates = 'dims = ["lat", "lon"]\ncoordinates = "grid.nc"\n' if grid == (8, 16) else ""
    head = f'name = "{folder.name}"\ngrid = {list(grid)}\nvariance = 4.0\n{coordinates}'
    channels = '[[channels]]\nname = "tas"\nscale = 2.0\noffset = 280.0\nunits = "K"\n'
    (folder / "adapter.toml").write_text(f"{head}[network]\n{network}\n{schedule}{channels}{''.join(inputs)}{more}")
    xr.Dataset(coords={"lat": LAT, "lon": LON}).to_netcdf(folder / "grid.nc")
    return folder


EVERYTHING = 'callable = "conditional_nets:everything"\npredicts = "x0"\ntime = "sigma"'


def conditions(path: Path, count: int = 2, **changes: Any) -> Path:
    """A file of conditions: a map in degrees Celsius whose rows are reversed, a number and a class."""
    generator = np.random.default_rng(1)
    low = (("case", "lat", "lon"), generator.normal(7, 2, (count, 8, 16)), {"units": "degC"})
    variables: dict[str, Any] = {"low": low, "forcing": ("case", np.linspace(-1, 1, count), {"units": "W m-2"})}
    variables |= {"scenario": ("case", np.arange(count) % 3)} | changes
    known = {name: values for name, values in variables.items() if values is not None}
    xr.Dataset(known, {"lat": LAT[::-1], "lon": LON}).to_netcdf(path)
    return path


def run(model: Path, out: Path, file: Path, *more: object) -> dict[str, Any]:
    """Samples of the probability flow, whose discretisation is within the tolerance."""
    flow = ("--set", "chain.eta=0", "--set", "chain.integrator=collocation")
    return call("sample", "--model", model, "--condition", file, "--out", out, *flow, *more)


def test_a_callable_gets_maps_numbers_and_a_class_of_every_sample(tmp_path: Path) -> None:
    """Sample means are those of the Gaussian of their condition, and a condition that is drawn alone gives the same samples."""
    model = adapter(tmp_path / "model", EVERYTHING, LOW, FORCING, SCENARIO)
    file = conditions(tmp_path / "two.nc")
    done = run(model, tmp_path / "run", file, "--samples", 60, "--allow-code")
    assert done["code"] == 0, done
    with open_run(tmp_path / "run") as found, xr.open_dataset(file) as given:
        tas = found.tas.transpose("realization", "condition", "lat", "lon").values
        shift = (given.low.values[:, ::-1] + 273.15 - 280) / 2 + given.forcing.values[:, None, None]
        mean = 280 + 2 * (1 + given.scenario.values)[:, None, None] * shift
        np.testing.assert_allclose(tas.mean(0), mean, atol=2 * 5 * 0.5 / np.sqrt(60))
        assert np.std(tas - mean) == pytest.approx(2 * 0.5, rel=0.05)
        given.isel(case=[1]).to_netcdf(tmp_path / "one.nc")
    assert run(model, tmp_path / "alone", tmp_path / "one.nc", "--samples", 2, "--allow-code")["code"] == 0
    with open_run(tmp_path / "alone") as alone:
        np.testing.assert_allclose(alone.tas.squeeze().values, tas[:2, 1], atol=1e-3)


def test_guidance_of_a_foreign_network_is_the_formula_of_two_models(tmp_path: Path) -> None:
    model = adapter(tmp_path / "model", EVERYTHING, LOW, FORCING, SCENARIO, more="[condition]\ndropout = 0.1\n")
    loaded = load_model(model, allow_code=True)
    assert loaded.conditioning is not None
    null = loaded.conditioning.null
    assert null["classes"].tolist() == [3] and float(null["maps"].abs().max()) == 0
    guided = run(model, tmp_path / "run", conditions(tmp_path / "c.nc", 1), "--samples", 40, "--guidance", 2, "--allow-code")
    plain = run(model, tmp_path / "plain", conditions(tmp_path / "c.nc", 1), "--samples", 40, "--allow-code")
    assert guided["code"] == plain["code"] == 0, (guided, plain)
    with open_run(tmp_path / "run") as twice, open_run(tmp_path / "plain") as once:
        # a Gaussian around m that is guided by one around zero has the mean 2 m
        ratio = ((twice.tas - 280).mean("realization") / (once.tas - 280).mean("realization")).median()
        assert float(ratio) == pytest.approx(2, abs=0.1)
    unguided = adapter(tmp_path / "other", EVERYTHING, LOW, FORCING, SCENARIO)
    done = run(unguided, tmp_path / "no", conditions(tmp_path / "c.nc", 1), "--guidance", 2, "--allow-code")
    assert "without condition.dropout" in one_line(done, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forcing": None}, "there is no forcing; the model takes low (map, K), forcing (scalar, W m-2)"),
        ({"low": (("case", "lon"), np.zeros((2, 16)))}, "low has the dimensions (case, lon); it must be a map over lat, lon"),
        ({"forcing": ("case", [1.0, 2.0], {"units": "kg"})}, "forcing"),
        ({"forcing": ("case", [1.0, 99.0])}, "99 standard deviations"),
        ({"scenario": ("case", [0, 3])}, "accepted are whole numbers from 0 to 2"),
        ({"forcing": (("case", "lat", "lon"), np.zeros((2, 8, 16)))}, "it must be one number a condition"),
    ],
)
def test_conditions_that_do_not_fit_are_refused_before_the_network_is_loaded(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """--allow-code is missing, so that loading the network would be a different error."""
    model = adapter(tmp_path / "model", EVERYTHING, LOW, FORCING, SCENARIO)
    text = one_line(run(model, tmp_path / "run", conditions(tmp_path / "c.nc", **changes)), 2)
    assert words in text and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("inputs", "more", "words"),
    [
        ([LOW, LOW], "", "need different names"),
        ([SCENARIO, SCENARIO.replace("scenario", "other")], "", "one input of kind 'class'"),
        ([SCENARIO.replace("classes = 3", "classes = 1")], "", "`classes`, at least two"),
        ([LOW.replace("2.0", "0.0")], "", "scale = 0"),
        ([LOW + "null = 1\n"], "", '`null` belongs to kind = "class"'),
        ([TEXT.replace("shape = [2, 4]", "")], "", "`shape`, [tokens, features]"),
        ([SCENARIO.replace("null = 3", "")], "[condition]\ndropout = 0.1\n", "give `null`"),
        ([], '[regression]\ncallable = "a:b"\n', "regression predicts the mean given a condition"),
        ([LOW], '[regression]\nmdlus = "a"\ncallable = "a:b"\n', "give one of callable, exported and mdlus, not 2"),
    ],
)
def test_sections_that_make_no_sense_are_named(tmp_path: Path, inputs: list[str], more: str, words: str) -> None:
    model = adapter(tmp_path / "model", EVERYTHING, *inputs, more=more)
    with pytest.raises(ValueError, match=r"adapter\.toml") as found:
        load_model(model, allow_code=True)
    assert words in str(found.value)


def test_a_network_of_molecules_is_given_a_temperature_and_a_class(tmp_path: Path, networks: types.ModuleType) -> None:
    """The network receives numbers after the node mask; padded atoms stay empty, and a map is refused."""

    def net(x: Tensor, sigma: Tensor, mask: Tensor, scalars: Tensor, classes: Tensor) -> Tensor:
        assert mask.shape == (len(x), 4, 1) and float((x * (1 - mask)).abs().max()) == 0
        variance = VARIANCE * (1 + scalars[:, :, None]) * (1 + classes[:, None, None])
        answer = variance / (variance + sigma[:, None, None] ** 2) * x * mask
        return answer - mask * answer.sum(1, keepdim=True) / 3

    networks.molecule = net  # type: ignore[attr-defined]
    model, inputs = tmp_path / "model", FORCING.replace("forcing", "warmth").replace("W m-2", "1") + SCENARIO
    model.mkdir()
    network = f"[network]\n{EVERYTHING.replace('everything', 'molecule')}\nnode_mask = true\n{EDM}"
    channels = '[[channels]]\nname = "coordinates"\nsize = 3\ncentred = true\nunits = "nanometers"\n'
    (model / "adapter.toml").write_text(f'name = "m"\natoms = [3]\nnodes = 4\n{network}{channels}{inputs}')
    given = {"warmth": ("case", [0.0, 1.0], {"units": "1"}), "scenario": ("case", [0, 2])}
    xr.Dataset(given).to_netcdf(tmp_path / "given.nc")
    done = run(model, tmp_path / "run", tmp_path / "given.nc", "--samples", 100, "--allow-code")
    assert done["code"] == 0, done
    with open_run(tmp_path / "run") as found:
        spread = found.coordinates.std(("realization", "atom", "spatial")).values
    # three centred atoms keep two thirds of the variance
    np.testing.assert_allclose(spread, np.sqrt(VARIANCE * np.array([1, 6]) * 2 / 3), rtol=0.1)
    (model / "adapter.toml").write_text(f'name = "m"\natoms = [3]\n{network}{channels}{LOW}')
    with pytest.raises(ValueError, match="low is a map, which belongs to a grid"):
        load_model(model, allow_code=True)


BEFORE = '[[condition.inputs]]\nname = "before"\nkind = "lag"\nvariable = "tas"\nlag = 1\nunits = "K"\n'


def test_forecasts_by_a_network_of_another_package_follow_each_other(tmp_path: Path, networks: types.ModuleType) -> None:
    """For x(t+1) = 0.8 x(t) + noise, the members' mean at every lead has its closed form, in the units of the channel."""
    networks.step = lambda x, sigma, maps: gaussian(x, sigma, 0.8 * maps)  # type: ignore[attr-defined]
    model = adapter(tmp_path / "model", EVERYTHING.replace("everything", "step"), BEFORE)
    start = 280 + 2 * np.random.default_rng(0).normal(size=(2, 8, 16))
    xr.Dataset({"before": (("case", "lat", "lon"), start, {"units": "K"})}, {"lat": LAT, "lon": LON}).to_netcdf(tmp_path / "s.nc")
    more = ("--leads", 3, "--samples", 50, "--out", tmp_path / "run", "--allow-code")
    done = call("rollout", "--model", model, "--init", tmp_path / "s.nc", *more)
    assert done["code"] == 0, done
    with open_run(tmp_path / "run") as found:
        tas = found.tas.transpose("realization", "init_time", "lead_time", "lat", "lon").values
    for lead in range(3):
        spread = np.sqrt(VARIANCE * sum(0.64**k for k in range(lead + 1)))
        np.testing.assert_allclose(
            tas[:, :, lead].mean(0), 280 + 0.8 ** (lead + 1) * (start - 280), atol=2 * 5 * spread / 50**0.5
        )
        assert np.std(tas[:, :, lead] - tas[:, :, lead].mean(0)) == pytest.approx(2 * spread, rel=0.08)
    for wrong, words in (('"tas"', '"pr"'), "before is an earlier pr"), (("lag = 1", "lag = 0"), "`lag`, at least 1"):
        adapter(tmp_path / "model", EVERYTHING.replace("everything", "step"), BEFORE.replace(*wrong))
        with pytest.raises(ValueError, match=words):
            load_model(model, allow_code=True)


class Mixed(nn.Module):
    """The denoiser of a Gaussian around the map; this is the network that is traced."""

    def forward(self, x: Tensor, sigma: Tensor, maps: Tensor) -> Tensor:
        return maps + (VARIANCE / (VARIANCE + sigma**2))[:, None, None, None] * (x - maps)


def test_a_traced_network_gets_its_map_in_calls_of_its_own_size(tmp_path: Path) -> None:
    traced = 'exported = "net.pt2"\npredicts = "x0"\ntime = "sigma"\nrows = 4'
    model = adapter(tmp_path / "model", traced, LOW)
    program = torch.export.export(Mixed(), (torch.zeros(4, 1, 8, 16), torch.ones(4), torch.zeros(4, 1, 8, 16)))
    torch.export.save(program, model / "net.pt2")
    loaded = load_model(model, allow_code=True)
    x, t, maps = torch.randn(6, 1, 8, 16), torch.linspace(0.1, 3, 6), torch.randn(6, 1, 8, 16)
    expected = (gaussian(x, t, maps) - x) / level(t) ** 2
    torch.testing.assert_close(loaded.score(x, t, {"maps": maps}), expected, atol=1e-4, rtol=1e-4)


def small_unet(kind: str, folder: Path, **more: Any) -> Any:
    import diffusers

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    if kind == "UNet2DConditionModel":
        blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
        more |= {"cross_attention_dim": 4, "attention_head_dim": 4}
    torch.manual_seed(0)
    shape = {"sample_size": 8, "in_channels": 2, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8,)}
    unet = getattr(diffusers, kind)(**shape, norm_num_groups=4, **blocks, **more).eval()
    unet.save_pretrained(folder)
    return unet


@pytest.mark.parametrize("kind", ["UNet2DModel", "UNet2DConditionModel"])
def test_a_unet_of_diffusers_gets_maps_labels_and_embeddings(tmp_path: Path, kind: str) -> None:
    """The score is that of the U-Net called by hand, without --allow-code; a network that lacks its inputs is refused."""
    attends = kind == "UNet2DConditionModel"
    labels = {"num_class_embeds": 4}
    unet = small_unet(kind, tmp_path / "model" / "unet", **labels)
    inputs = [LOW, SCENARIO] + [TEXT] * attends
    model = load_model(adapter(tmp_path / "model", 'diffusers = "unet"', *inputs, grid=(8, 8), schedule=""))
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([10.0, 300.0, 900.0])
    condition = {"maps": torch.randn(3, 1, 8, 8), "classes": torch.tensor([0, 2, 3])}
    more = {"encoder_hidden_states": torch.randn(3, 2, 4)} if attends else {}
    if attends:
        condition["embedding"] = more["encoder_hidden_states"]
    with torch.no_grad():
        eps = unet(torch.cat([x, condition["maps"]], 1), t, class_labels=condition["classes"], **more).sample
    sigma = model.process.sigma(t.to(torch.float64)).float()
    torch.testing.assert_close(model.score(x, t, condition), -eps / level(sigma), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="the network fails when it is called"):
        load_model(adapter(tmp_path / "model", 'diffusers = "unet"', LOW, FORCING, grid=(8, 8), schedule=""))


def test_embeddings_come_from_files_with_dimensions_of_their_own(tmp_path: Path) -> None:
    small_unet("UNet2DConditionModel", tmp_path / "model" / "unet")
    model = adapter(tmp_path / "model", 'diffusers = "unet"', LOW, TEXT, grid=(8, 8), schedule="")
    text = np.random.default_rng(0).normal(size=(3, 2, 4))
    low = (("case", "y", "x"), np.full((3, 8, 8), 281.0), {"units": "K"})
    xr.Dataset({"low": low, "text": (("case", "token", "feature"), text)}).to_netcdf(tmp_path / "c.nc")
    steps = ("--set", "chain.integrator=gaussian", "--set", "grid.steps=4", "--set", "solver.kind=sequential")
    done = run(model, tmp_path / "run", tmp_path / "c.nc", "--samples", 1, *steps)
    assert done["code"] == 0, done
    xr.Dataset({"low": low, "text": (("case", "token", "feature"), text[:, :1])}).to_netcdf(tmp_path / "short.nc")
    done = run(model, tmp_path / "no", tmp_path / "short.nc", "--samples", 1)
    assert "text has 1 along token, not 2" in one_line(done, 2)


def student_run(model: Path, out: Path, file: Path, integrator: str, *more: object) -> dict[str, Any]:
    values = (f"chain.integrator={integrator}", "chain.eta=0", "grid.steps=16", "solver.tol=1e-4")
    steps = [word for value in values for word in ("--set", value)]
    return call("sample", "--model", model, "--condition", file, "--out", out, "--samples", 2, "--allow-code", *steps, *more)


def test_a_model_with_a_cheaper_network_starts_the_sweeps(tmp_path: Path, networks: types.ModuleType) -> None:
    """`solver.student` names its folder; the samples do not change and take fewer rounds than from the path of the reference."""

    def bent(x: Tensor, sigma: Tensor, maps: Tensor) -> Tensor:
        return gaussian(x, sigma, maps) + 0.3 * torch.tanh(3 * x) * VARIANCE / (VARIANCE + level(sigma) ** 2)

    networks.teacher = bent  # type: ignore[attr-defined]
    networks.student = lambda x, sigma, maps: bent(x, sigma, maps) * 1.001  # type: ignore[attr-defined]
    models = {name: adapter(tmp_path / name, EVERYTHING.replace("everything", name), LOW) for name in ("teacher", "student")}
    file = conditions(tmp_path / "c.nc", forcing=None, scenario=None)
    found = {}
    for integrator in ("ddim", "collocation"):
        for name, more in (("usual", ()), ("taught", ("--set", f"solver.student={models['student']}"))):
            out = tmp_path / f"{name}-{integrator}"
            done = student_run(models["teacher"], out, file, integrator, *more)
            assert done["code"] == 0, done
            with open_run(out) as dataset:
                found[name] = dataset.tas.values, float(dataset.rounds.mean())
        np.testing.assert_allclose(found["taught"][0], found["usual"][0], atol=2e-3)
        assert found["taught"][1] < found["usual"][1]
    other = adapter(tmp_path / "other", EVERYTHING, LOW, FORCING, SCENARIO)
    done = student_run(models["teacher"], tmp_path / "no", file, "ddim", "--set", f"solver.student={other}")
    assert "other has other conditions than teacher; a student has the same" in one_line(done, 2)


# --- physicsnemo -----------------------------------------------------------------------------------------------------------

MAPS_AND_LABELS = {
    "embedding_type": "positional",
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "model_channels": 8,
}


def precond(**more: Any) -> Any:
    """A denoiser of one channel, given one map and a vector of three; its weights are random."""
    from physicsnemo.diffusion.preconditioners import EDMPrecond

    torch.manual_seed(0)
    sizes = {"img_resolution": 8, "img_channels": 1, "img_in_channels": 2, "label_dim": 3, "model_type": "SongUNet"}
    network = EDMPrecond(**sizes, **MAPS_AND_LABELS, **more).eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    return network


def test_a_checkpoint_of_physicsnemo_is_sampled_from_its_folder_alone(tmp_path: Path) -> None:
    """The command needs only --model and --condition: time, schedule and variance are read from the checkpoint."""
    network = precond(sigma_data=0.4)
    model = adapter(tmp_path / "model", 'mdlus = "net.mdlus"', LOW, SCENARIO, grid=(8, 8), schedule="")
    text = (model / "adapter.toml").read_text()
    (model / "adapter.toml").write_text(text.replace("variance = 4.0\n", ""))
    network.save(str(model / "net.mdlus"))
    loaded = load_model(model)
    assert float(loaded.reference.spectrum[0]) == pytest.approx(0.16) and (loaded.horizon, loaded.delta) == (80, 0.002)
    x, sigma, maps = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 10.0]), torch.randn(3, 1, 8, 8)
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 0]])
    with torch.no_grad():
        expected = (network(x, sigma, condition=maps, class_labels=labels) - x) / level(sigma) ** 2
    condition = {"maps": maps, "classes": torch.tensor([0, 2, 3])}
    torch.testing.assert_close(loaded.score(x, sigma, condition), expected, atol=1e-4, rtol=1e-4)

    low = (("case", "y", "x"), np.random.default_rng(0).normal(280, 2, (2, 8, 8)), {"units": "K"})
    xr.Dataset({"low": low, "scenario": ("case", [0, 2])}).to_netcdf(tmp_path / "low.nc")
    done = run(model, tmp_path / "run", tmp_path / "low.nc", "--samples", 3)
    assert done["code"] == 0, done
    with open_run(tmp_path / "run") as found:
        assert found.tas.sizes == {"realization": 3, "condition": 2, "y": 8, "x": 8}
    text = (model / "adapter.toml").read_text()
    (model / "adapter.toml").write_text(text.replace("[network]\n", '[network]\npredicts = "eps"\n'))
    with pytest.raises(ValueError, match=r"network.predicts = 'eps', the checkpoint's EDMPrecond has 'x0'"):
        load_model(model)


def wrapped(network: Any, wrapper: Callable[[Any], Any]) -> Any:
    from physicsnemo.diffusion.utils import ConcatConditionWrapper

    return wrapper(ConcatConditionWrapper(network))


@pytest.mark.parametrize("form", ["new", "raw", "super-resolution", "tar"])
def test_other_forms_of_physicsnemo_are_called_as_their_classes_want(tmp_path: Path, form: str) -> None:
    """The forms are a wrapped U-Net in a preconditioner, a U-Net alone, the class of CorrDiff, and files of older versions."""
    from physicsnemo.diffusion.preconditioners import EDMPreconditioner, EDMPrecondSuperResolution
    from physicsnemo.models.diffusion_unets import SongUNet

    x, t, maps = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 2.0]), torch.randn(2, 1, 8, 8)
    vector = torch.tensor([[0.0, 1, 0], [1, 0, 0]])
    network: Any
    with torch.no_grad():
        if form == "super-resolution":
            network = EDMPrecondSuperResolution(8, 1, 1, model_type="SongUNet", **MAPS_AND_LABELS).eval()
            denoised = network(x, maps, t)
        elif form == "tar":
            network = precond()
            denoised = network(x, t, condition=maps, class_labels=vector)
        else:
            unet = SongUNet(img_resolution=8, in_channels=2, out_channels=1, label_dim=3, **MAPS_AND_LABELS).eval()
            network = wrapped(unet, EDMPreconditioner) if form == "new" else unet
            total = level(t**2 + 0.25)
            raw = unet(torch.cat([x / total.sqrt(), maps], 1), t.log() / 4, vector)
            denoised = 0.25 / total * x + level(t) * 0.5 / total.sqrt() * raw
            if form == "raw":
                denoised = unet(torch.cat([x, maps], 1), t, vector)
    raw_keys = '\npredicts = "x0"\ntime = "sigma"' if form == "raw" else ""
    inputs = [LOW] if form == "super-resolution" else [LOW, SCENARIO]
    schedule = EDM if form == "raw" else ""
    model = adapter(tmp_path / "model", 'mdlus = "net.mdlus"' + raw_keys, *inputs, grid=(8, 8), schedule=schedule)
    network.save(str(model / "net.mdlus"))
    if form == "tar":
        repacked(model / "net.mdlus")
    condition = {"maps": maps, "classes": torch.tensor([1, 0])}
    given = {"maps": maps} if form == "super-resolution" else condition
    found = load_model(model).score(x, t, given)
    torch.testing.assert_close(found, (denoised - x) / level(t) ** 2, atol=2e-4, rtol=2e-4)


def repacked(path: Path) -> None:
    """Turn a checkpoint into the tar file that older versions wrote."""
    with zipfile.ZipFile(path) as new:
        contents = {name: new.read(name) for name in new.namelist()}
    with tarfile.open(path, "w") as old:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            old.addfile(member, io.BytesIO(content))


def rewritten(path: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a checkpoint with other arguments."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "args.json":
                arguments = json.loads(content)
                change(arguments)
                content = json.dumps(arguments).encode()
            new.writestr(name, content)
    return out


def test_a_checkpoint_names_networks_of_physicsnemo_only(tmp_path: Path) -> None:
    """Any other name, at any depth of the arguments, is refused before anything is imported."""
    precond().save(str(tmp_path / "good.mdlus"))
    assert read_arguments(tmp_path / "good.mdlus")["__name__"] == "EDMPrecond"
    evil = {"__module__": "subprocess", "__name__": "call", "__args__": {"args": "touch MARK"}}
    changes: list[Callable[[dict[str, Any]], None]] = [
        lambda arguments: arguments.update(evil),
        lambda arguments: arguments.update(__name__="getLogger"),
        lambda arguments: arguments["__args__"].update(model_type="importlib"),
        lambda arguments: arguments.update({"inner": evil}),
        lambda arguments: arguments["__args__"].update(model=evil),
    ]
    for number, change in enumerate(changes):
        path = rewritten(tmp_path / "good.mdlus", tmp_path / f"{number}.mdlus", change)
        with pytest.raises(ValueError, match="loading it would run that code; accepted are physicsnemo's EDMPrecond"):
            read_arguments(path)
    model = adapter(tmp_path / "model", 'mdlus = "net.mdlus"', LOW, grid=(8, 8), schedule="")
    (tmp_path / "0.mdlus").rename(model / "net.mdlus")
    with pytest.raises(ValueError, match=r"names subprocess\.call"):
        load_model(model)
    for content in (b"", b"not an archive"):
        (model / "net.mdlus").write_bytes(content)
        with pytest.raises(ValueError, match="not a checkpoint of physicsnemo"):
            load_model(model)


class Pickled:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_weights_of_a_checkpoint_are_never_unpickled(tmp_path: Path) -> None:
    model = adapter(tmp_path / "model", 'mdlus = "net.mdlus"', LOW, SCENARIO, grid=(8, 8), schedule="")
    precond().save(str(tmp_path / "good.mdlus"))
    torch.save({"weight": Pickled(tmp_path / "mark")}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "good.mdlus") as old, zipfile.ZipFile(model / "net.mdlus", "w") as new:
        for name in old.namelist():
            new.writestr(name, (tmp_path / "model.pt").read_bytes() if name == "model.pt" else old.read(name))
    with pytest.raises(ValueError, match="physicsnemo cannot load it"):
        load_model(model)
    assert not (tmp_path / "mark").exists()


def test_corrdiff_is_a_regression_and_the_diffusion_of_what_it_leaves(tmp_path: Path) -> None:
    """Samples are the regression's mean plus residuals of the denoiser, which sees that mean before the coarse field."""
    from physicsnemo.diffusion.preconditioners import EDMPrecondSuperResolution
    from physicsnemo.models.diffusion_unets import CorrDiffRegressionUNet

    torch.manual_seed(0)
    mean = CorrDiffRegressionUNet(8, 1, 1, model_type="SongUNet", **MAPS_AND_LABELS).eval()
    residual = EDMPrecondSuperResolution(8, 2, 1, model_type="SongUNet", **MAPS_AND_LABELS).eval()
    with torch.no_grad():
        for weights in (*mean.parameters(), *residual.parameters()):
            weights.add_(0.05 * torch.randn_like(weights))
    section = '[regression]\nmdlus = "mean.mdlus"\nshown = true\n'
    model = adapter(tmp_path / "model", 'mdlus = "net.mdlus"', LOW, grid=(8, 8), more=section, schedule="")
    mean.save(str(model / "mean.mdlus"))
    residual.save(str(model / "net.mdlus"))
    loaded = load_model(model)
    low = np.random.default_rng(0).normal(280, 2, (2, 8, 8))
    assert isinstance(loaded.conditioning, ForeignConditioning)
    condition = loaded.conditioning.encode({"low": low})
    maps = torch.from_numpy((low - 280) / 2).float()[:, None]
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    with torch.no_grad():
        expected = mean(torch.zeros(2, 1, 8, 8), img_lr=maps)
        score = (residual(x, torch.cat([expected, maps], 1), sigma) - x) / level(sigma) ** 2
    torch.testing.assert_close(condition["mean"], expected)
    torch.testing.assert_close(loaded.score(x, sigma, condition), score, atol=1e-4, rtol=1e-4)
    fields = loaded.decode(x, condition)["tas"]
    np.testing.assert_allclose(fields, 280 + 2 * (x + expected)[:, 0].numpy(), atol=1e-4)
    torch.testing.assert_close(loaded.encode({"tas": fields}, condition), x, atol=1e-4, rtol=1e-4)

    xr.Dataset({"low": (("case", "y", "x"), low, {"units": "K"})}).to_netcdf(tmp_path / "low.nc")
    done = run(model, tmp_path / "run", tmp_path / "low.nc", "--samples", 2)
    assert done["code"] == 0, done
    with open_run(tmp_path / "run") as found:
        states = loaded.encode({"tas": found.tas.isel(realization=0).values}, rows_of(condition, torch.arange(2)))
        assert float(states.std()) < 1.5  # residuals: the mean is subtracted again


def test_a_regression_that_does_not_fit_is_refused(tmp_path: Path, networks: types.ModuleType) -> None:
    networks.mean = lambda maps: maps[:, :, :4]  # type: ignore[attr-defined]
    networks.fails = lambda maps: maps @ torch.zeros(3, 3)  # type: ignore[attr-defined]
    networks.net = lambda x, sigma, maps: gaussian(x, sigma, maps)  # type: ignore[attr-defined]
    network = EVERYTHING.replace("everything", "net")
    for name, words in (
        ("mean", r"returned \[2, 1, 4, 16\] for two conditions"),
        ("fails", "the regression fails: RuntimeError"),
    ):
        section = f'[regression]\ncallable = "conditional_nets:{name}"\n'
        model = adapter(tmp_path / "model", network, LOW, more=section)
        with pytest.raises(ValueError, match=words):
            load_model(model, allow_code=True)
        with pytest.raises(ValueError, match="--allow-code"):
            load_model(model)
