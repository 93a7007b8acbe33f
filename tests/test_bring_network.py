"""The code of docs/bring-your-network.md runs from top to bottom, and networks get the shapes and types in its table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import piadm_hpc as piadm
from piadm_hpc import process

PAGE = Path(__file__).resolve().parents[1] / "docs" / "bring-your-network.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """Run the page's code and return the names that it defines."""
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("name", ["images", "fields", "flows", "exact"])
def test_every_example_gives_converged_samples_in_fewer_rounds_than_steps(page: dict[str, Any], name: str) -> None:
    found = page[name]
    assert found.x.shape == (4, 1, 16, 16) and found.x.dtype == torch.float32
    assert bool(torch.isfinite(found.x).all()) and bool(found.converged.all())
    assert int(found.rounds.max()) < 24 <= int(found.calls.min())


def test_a_normal_score_gives_normal_samples(page: dict[str, Any]) -> None:
    assert float(page["exact"].x.std()) == pytest.approx(1.0, abs=0.06) and abs(float(page["exact"].x.mean())) < 0.1


def test_the_network_sees_what_the_table_says(page: dict[str, Any]) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return 0.5 * x

    schedule = page["schedule"]
    page["draw"](
        piadm.wrap(network, predicts="eps", process=schedule), schedule, (1, 16, 16), variance=1.0, start=999.0, stop=0.5
    )
    for x, t in seen:
        assert x.shape[1:] == (1, 16, 16) and t.shape == (len(x),) and x.dtype == t.dtype == torch.float32
    times = torch.cat([t for _, t in seen])
    assert any(len(t.unique()) > 1 for _, t in seen) and bool((times != times.round()).any())
    assert 0.5 - 1e-3 < float(times.min()) and float(times.max()) < 999.0 + 1e-2


def test_flow_matching_from_noise_to_data_is_the_exact_flow(page: dict[str, Any]) -> None:
    """The page's conversion of x_0 - eps at 1 - t is exact for a normal distribution, whose velocity is known in closed form."""

    def velocity(s: Tensor, x: Tensor) -> Tensor:
        """Return E[x_0 - eps | x] of the standard normal distribution at signal s and noise 1 - s."""
        s = s[:, None, None, None]
        return (s - (1 - s)) / (s**2 + (1 - s) ** 2) * x

    score = piadm.wrap(lambda x, t: -velocity(1 - t, x), predicts="flow", process=piadm.Flow())
    x, t = torch.randn(5, 1, 16, 16, dtype=torch.float64), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    variance = ((1 - t) ** 2 + t**2)[:, None, None, None]
    torch.testing.assert_close(score(x, t), -x / variance)


def test_predictions_of_diffusers_have_the_signs_of_the_table() -> None:
    """v and sample of DDPMScheduler, for one noisy state, become the score of the noise that made this state."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    schedule = process.Tabulated.from_alphas_cumprod(scheduler.alphas_cumprod)
    clean, eps, index = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4), torch.tensor([10, 400, 900])
    noisy, t = scheduler.add_noise(clean, eps, index), index.double()
    expected = -eps / schedule.sigma(t)[:, None, None, None].float()
    for predicts, given in (("eps", eps), ("x0", clean), ("v", scheduler.get_velocity(clean, eps, index))):
        score = piadm.wrap(lambda x, t, given=given: given, predicts=predicts, process=schedule)
        torch.testing.assert_close(score(noisy, t), expected, rtol=2e-3, atol=2e-3)
