"""The network on cells: its taps, its levels, and a training that explains what a Gaussian cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import piadm_hpc
from piadm_hpc.data.geometry import unit_vectors
from piadm_hpc.data.healpix import Healpix
from piadm_hpc.models.config import NetworkConfig
from piadm_hpc.models.networks.cells import CellUNet, Pool, spacing_of, stencil, thinned


def healpix(nside: int) -> tuple[np.ndarray, np.ndarray]:
    """Return latitudes and longitudes of nested HEALPix cells."""
    return Healpix(nside, True).angles(np.arange(12 * nside**2))


def test_taps_lie_around_every_cell() -> None:
    """On a small regular grid at the equator the taps are those of a 3 x 3 convolution; on HEALPix they are neighbours."""
    lat, lon = (axis.ravel() for axis in np.meshgrid(np.arange(-2.0, 3), np.arange(-2.0, 3), indexing="ij"))
    assert stencil(unit_vectors(lat, lon))[:, 12].tolist() == [12, 17, 18, 13, 8, 7, 6, 11, 16]
    points = unit_vectors(*healpix(8))
    taps = stencil(points)
    apart = np.linalg.norm(points[taps.numpy()] - points, axis=2)
    assert taps.shape == (9, 768) and (taps[0] == torch.arange(768)).all()
    assert apart.max() < 2.5 * spacing_of(points)
    assert all(len(torch.unique(taps[:, k])) >= 6 for k in range(768))


def test_levels_are_means_over_all_cells() -> None:
    points = unit_vectors(*healpix(8))
    fewer, nearest = thinned(points)
    assert 100 < len(fewer) < 300 and torch.bincount(nearest).min() >= 1
    pool = Pool(nearest)
    x = torch.randn(2, 3, 1, 768)
    coarse = pool(x)
    assert torch.allclose(coarse[1, 2, 0, 5], x[1, 2, 0, nearest == 5].mean())
    assert torch.allclose(pool(pool.back(coarse)), coarse, atol=1e-6)


def test_the_network_takes_any_mesh_and_reaches_far() -> None:
    config = NetworkConfig(width=4, multipliers=(1, 1, 2), embedding=8, static_maps=2, dropout=0.0)
    poles = np.array([90.0, 89.0, -90.0]), np.array([0.0, 10.0, 20.0])
    for places in (healpix(4), (np.array([10.0]), np.array([3.0])), poles):
        cells, network = len(places[0]), CellUNet(2, 1, *places, config, (1, 2))
        condition = {"maps": torch.randn(3, 1, cells), "numbers": torch.randn(3, 2)}
        fields, levels = torch.randn(3, 2, cells), torch.zeros(3)
        assert torch.equal(network(fields, levels, condition), torch.zeros(3, 1, cells))
        with pytest.raises(ValueError, match="trained with conditions"):
            network(fields, levels)
    torch.manual_seed(0)
    network = CellUNet(1, 1, *healpix(4), config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    fields = torch.randn(1, 1, 192, requires_grad=True)
    slope = torch.autograd.grad(network(fields, torch.zeros(1))[0, 0, 0], fields)[0][0, 0]
    assert int((slope.abs() > 0).sum()) > 96


def test_a_network_on_cells_explains_what_the_gaussian_cannot(tmp_path: Path) -> None:
    """Fields are signs of smooth waves with a little noise: a network can decide between two values, and a Gaussian cannot."""
    (lat, lon), generator = healpix(4), np.random.default_rng(0)
    waves = generator.normal(size=(400, 3)) @ unit_vectors(lat, lon).T
    fields = np.sign(waves) + 0.1 * generator.normal(size=(400, 192))
    places = {"lat": ("cell", lat, {"units": "degrees_north"}), "lon": ("cell", lon, {"units": "degrees_east"})}
    xr.Dataset({"t": (("time", "cell"), fields.astype(np.float32))}, places).to_netcdf(tmp_path / "a.nc")
    config = {
        "name": "m",
        "output": str(tmp_path / "m"),
        "data": {"files": ["a.nc"], "variables": ["t"], "spatial_dims": ["cell"], "validation_fraction": 0.2},
        "network": {"width": 16, "multipliers": [1, 2], "embedding": 32, "dropout": 0.0},
        "noise": {"lowest": -4.0, "highest": 2.0, "spread": 1.0},
        "optimiser": {"steps": 150, "batch": 16, "warm_up": 20, "validate_every": 75, "ema": 0.95, "rate": 3e-3},
    }
    folder = piadm_hpc.train(config, root=tmp_path, report=lambda line: None)
    model = piadm_hpc.load_model(folder)
    scores = model.card["scores"]["validation"]
    ratio = dict(zip(scores["log_snr"], scores["ratio"], strict=True))
    assert max(ratio.values()) < 0.95
    assert isinstance(model.denoiser.network, CellUNet)
    x = torch.randn(2, 192, dtype=torch.float64)
    assert model.score(x, torch.tensor([0.5, 0.9])).shape == (2, 192)
