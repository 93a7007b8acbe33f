"""The padding of the U-Net for global grids, entry by entry, and its first convolution compared with the plain one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from piadm_hpc.data.geometry import Wrap, rectangular
from piadm_hpc.models.config import NetworkConfig
from piadm_hpc.models.networks.unet import GridPad, GridUNet


@pytest.mark.parametrize("widths", [(1, 1, 1, 1), (2, 3, 0, 1), (0, 0, 2, 0), (0, 1, 0, 0)])
def test_padding_goes_around_the_globe_and_over_the_poles(widths: tuple[int, int, int, int]) -> None:
    west, east, top, bottom = widths
    x = torch.arange(48.0).reshape(1, 2, 4, 6)
    padded = GridPad(wrap=True).pad(x, widths)
    assert padded.shape == (1, 2, 4 + top + bottom, 6 + west + east)
    for i in range(padded.shape[2]):
        for j in range(padded.shape[3]):
            row, column = i - top, j - west
            if not 0 <= row < 4:  # beyond a pole the same latitudes follow on the opposite meridian
                row, column = (-1 - row if row < 0 else 7 - row), column + 3
            assert torch.equal(padded[..., i, j], x[..., row, column % 6])


def test_places_on_a_plane_are_as_far_apart_round_it_either_way() -> None:
    places = rectangular(6, 8, periodic="both").reshape(6, 8, -1)
    apart = np.linalg.norm(places - places[0, 0], axis=-1)
    assert np.allclose(apart[1:], apart[:0:-1]) and np.allclose(apart[:, 1:], apart[:, :0:-1])
    assert apart[0, 1] == pytest.approx(8 / np.pi * np.sin(np.pi / 8))


def test_planes_are_periodic_in_both_directions() -> None:
    """The network commutes with shifts of a plane along rows and columns, by multiples of its coarsest grid."""
    torch.manual_seed(0)
    config = NetworkConfig(width=8, multipliers=(1, 2), embedding=8, static_maps=0)
    network = GridUNet(2, 1, torch.zeros(8), 12, "both", config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, level = torch.randn(2, 2, 8, 12), torch.zeros(2)
    moved = network(x.roll((4, -4), (-2, -1)), level).roll((-4, 4), (-2, -1))
    assert torch.allclose(moved, network(x, level), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "wrap"), [((8, 16), True), ((6, 10), True), ((7, 9), False), ((8, 12), "both")])
def test_static_maps_are_convolved_as_if_they_were_fields(shape: tuple[int, int], wrap: Wrap) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(width=8, multipliers=(1, 2), embedding=8, static_maps=3)
    network = GridUNet(2, 1, torch.linspace(-80, 80, shape[0]), shape[1], wrap, config)
    torch.nn.init.normal_(network.maps)
    fields = torch.randn(3, 2, *shape)
    static = torch.cat([network.sphere, network.maps]).expand(3, -1, -1, -1)
    whole, crop = network._fit(torch.cat([fields, static], dim=1))
    expected = network.stem(functional.pixel_unshuffle(whole, 2))
    found, place = network._begin(fields)
    assert place == crop and torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
