"""Checkpoints of other packages: their own samplers run until they converge, and this package from the same folder and noise.

    python benchmarks/foreign.py
    python benchmarks/foreign.py --package diffusers

Two small networks are trained here for minutes on fields made here. One is an EDMPrecond of a SongUNet of physicsnemo that is
given a coarse image, saved as .mdlus; the other a U-Net of diffusers with class labels, saved by `save_pretrained` with its
scheduler. Either is loaded as a model from a folder with adapter.toml, as any user would, probed by `piadm reference`, and drawn
along the probability flow. The package's own sampler (`sample` with Heun's steps, DPM-Solver++ 2M) starts from the same
states. Both must agree with the same flow to a thousandth of the data's deviation in every sample; how many calls the package's
sampler needs for that, one after the other, is compared with the rounds taken here. Heun's method is converged at many steps.
DPM-Solver++ knows whole indices alone and at most one step for each, so that the flow is solved beside it in float64, by
midpoint steps between the indices.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from common import Report, at_most, parser
from torch import Tensor

from piadm_hpc.config.run import RunConfig
from piadm_hpc.models.card import load_model
from piadm_hpc.run.probe import probe_model
from piadm_hpc.run.resolve import ResolvedRun, resolve
from piadm_hpc.theory.process import Process

SIZE, COARSE, CLASSES, DEVIATION = 16, 4, 3, 0.5
CHANNELS = '[[channels]]\nname = "field"\n'
AIM = 1e-3  # root mean square difference of a sample in units of the data's deviation
POINTS = 32  # nodes of the flow


@dataclass(frozen=True)
class Budget:
    """Steps of training, samples to draw and to probe, and steps of the other samplers; Heun's last has converged."""

    steps: int
    samples: int
    probes: int
    heun: tuple[int, ...]
    multistep: tuple[int, ...]


FULL = Budget(1000, 8, 4, (9, 18, 37, 50, 75, 100, 150, 200, 400), (10, 37, 111, 200, 333, 500, 666, 999))
QUICK = Budget(10, 2, 1, (9, 40), (10, 60))


def fields(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Fields [n, 1, y, x] of the deviation 0.5 with fronts, their means over blocks on the same grid, and their class.

    A smooth random field goes through tanh, which makes two phases with fronts between them; the class is its wavelength.
    """
    classes = torch.randint(0, CLASSES, (count,), generator=generator)
    ky, kx = torch.meshgrid(torch.fft.fftfreq(SIZE) * SIZE, torch.fft.fftfreq(SIZE) * SIZE, indexing="ij")
    scale = (1.5 + classes.float())[:, None, None, None]
    white = torch.fft.fft2(torch.randn(count, 1, SIZE, SIZE, generator=generator))
    smooth = torch.fft.ifft2(white * torch.exp(-(kx**2 + ky**2) / scale**2 / 2)).real
    x = torch.tanh(2 * smooth / smooth.std((1, 2, 3), keepdim=True))
    x = DEVIATION * x / 0.76
    coarse = torch.nn.functional.avg_pool2d(x, COARSE)
    return x, torch.nn.functional.interpolate(coarse, scale_factor=COARSE, mode="nearest"), classes


def trained(network: torch.nn.Module, loss: Callable[[Tensor, Tensor, Tensor], Tensor], steps: int) -> None:
    """Train on fresh fields with Adam, a falling rate, and clipped gradients."""
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    network.train()
    for _ in range(steps):
        optimiser.zero_grad()
        loss(*fields(16, generator)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    network.eval().requires_grad_(False)


def physicsnemo_folder(folder: Path, steps: int) -> torch.nn.Module:
    """Train an EDMPrecond that is given the coarse image, and write its model folder."""
    from physicsnemo.diffusion.preconditioners import EDMPrecond

    torch.manual_seed(0)
    unet = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    network = EDMPrecond(SIZE, 1, model_type="SongUNet", img_in_channels=2, img_out_channels=1, sigma_data=DEVIATION, **unet)

    def loss(x: Tensor, coarse: Tensor, classes: Tensor) -> Tensor:
        sigma = torch.exp(1.2 * torch.randn(len(x), 1, 1, 1) - 1.2)
        weight = (sigma**2 + DEVIATION**2) / (sigma * DEVIATION) ** 2
        return (weight * (network(x + sigma * torch.randn_like(x), sigma, condition=coarse) - x) ** 2).mean()

    trained(network, loss, steps)
    folder.mkdir()
    network.save(str(folder / "net.mdlus"))
    inputs = '[[condition.inputs]]\nname = "coarse"\nkind = "map"\nscale = 1.0\n'
    head = f'name = "songunet"\ngrid = [{SIZE}, {SIZE}]\n[network]\nmdlus = "net.mdlus"\n'
    (folder / "adapter.toml").write_text(head + CHANNELS + inputs)
    return network


def diffusers_folder(folder: Path, steps: int) -> torch.nn.Module:
    """Train a U-Net with class labels that predicts the noise, and write its model folder with its scheduler."""
    from diffusers import DPMSolverMultistepScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIZE, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), num_class_embeds=CLASSES,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(num_train_timesteps=1000, final_sigmas_type="sigma_min")

    def loss(x: Tensor, coarse: Tensor, classes: Tensor) -> Tensor:
        index, noise = torch.randint(0, 1000, (len(x),)), torch.randn_like(x)
        return ((unet(scheduler.add_noise(x, noise, index), index, class_labels=classes).sample - noise) ** 2).mean()

    trained(unet, loss, steps)
    folder.mkdir()
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    inputs = f'[[condition.inputs]]\nname = "kind"\nkind = "class"\nclasses = {CLASSES}\n'
    head = f'name = "unet"\ngrid = [{SIZE}, {SIZE}]\nvariance = 0.25\n[network]\ndiffusers = "unet"\n[schedule]\ndelta = 0.0\n'
    (folder / "adapter.toml").write_text(head + CHANNELS + inputs)
    return unet


def prepared(folder: Path, conditions: dict[str, Any], budget: Budget) -> ResolvedRun:
    """Probe a model under its conditions, and resolve the run that draws from it along the whole flow."""
    file = folder / "conditions.nc"
    xr.Dataset(conditions).to_netcdf(file)
    probe_model(folder, samples=budget.probes, levels=24 if budget is FULL else 4, condition=file)
    flow = {"chain": {"eta": 0.0, "integrator": "collocation"}, "grid": {"steps": POINTS}, "solver": {"tol": AIM / 2}}
    return resolve(RunConfig.model_validate({"model": str(folder), "condition": {"file": str(file)}, **flow}), load_model(folder))


Solve = Callable[[Tensor, int], Tensor]


def heun(network: torch.nn.Module, coarse: Tensor, start: float, end: float) -> Solve:
    """physicsnemo's `sample` from one noise level to another, with `steps` steps of Heun's method on the grid of EDM."""
    from physicsnemo.diffusion.noise_schedulers import EDMNoiseScheduler
    from physicsnemo.diffusion.samplers import sample

    def solve(first: Tensor, steps: int) -> Tensor:
        scheduler = EDMNoiseScheduler(sigma_min=end, sigma_max=start)
        denoiser = scheduler.get_denoiser(x0_predictor=lambda x, t: network(x, t, condition=coarse))
        levels = scheduler.timesteps(steps + 1)[: steps + 1]
        with torch.no_grad():
            found: Tensor = sample(denoiser, first, scheduler, steps, solver="heun", time_steps=levels)
        return found

    return solve


def multistep(unet: torch.nn.Module, classes: Tensor, folder: Path) -> Solve:
    """The loop that the documentation of diffusers shows, with DPM-Solver++ 2M from its own file."""
    from diffusers import DPMSolverMultistepScheduler

    def solve(first: Tensor, steps: int) -> Tensor:
        scheduler = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
        scheduler.set_timesteps(steps)
        x = first
        with torch.no_grad():
            for index in scheduler.timesteps:
                noise = unet(x, index, class_labels=classes).sample
                x = scheduler.step(noise, index, x).prev_sample
        return x

    return solve


def between_indices(unet: torch.nn.Module, classes: Tensor, process: Process, first: Tensor) -> Tensor:
    """The flow of a U-Net in float64 by midpoint steps, one for every index, and sixteen for each of the last twenty."""
    unet, t = unet.double(), torch.cat([torch.arange(999.0, 20, -1), torch.linspace(20, 0, 321)]).double()
    x, level = first.double() / process.alpha(t[0]), torch.log(process.sigma(t) / process.alpha(t))

    def slope(x: Tensor, log_level: Tensor, t: Tensor) -> Tensor:
        """Of x / alpha along log(sigma / alpha), which is a straight line between two indices."""
        noise: Tensor = unet(process.alpha(t) * x, t, class_labels=classes).sample
        return torch.exp(log_level) * noise

    with torch.no_grad():
        for j in range(len(t) - 1):
            step, middle = level[j + 1] - level[j], (t[j] + t[j + 1]) / 2
            half = x + step / 2 * slope(x, level[j], t[j])
            x = x + step * slope(half, level[j] + step / 2, middle)
    unet.float()
    return process.alpha(t[-1]) * x


def first_states(run: ResolvedRun) -> Tensor:
    """The states that the samples begin with, one for every condition of the run."""
    return replace(run.sampler, stride=1).prior_states(range(run.config.condition.count))[:, 0]


def compared(report: Report, title: str, run: ResolvedRun, theirs: Solve, truth: Tensor, calls: dict[int, int]) -> None:
    """Add the table of one network: the difference from the flow, for its own sampler and for ours."""
    sampler = replace(run.sampler, stride=1)  # a noise of its own for every condition
    ids, first = range(run.config.condition.count), first_states(run)
    # networks that are hardly trained make samples of any size
    scale = DEVIATION if report.name == "foreign" else float(truth.std())

    def apart(x: Tensor) -> float:
        return float(((x - truth) ** 2).mean((1, 2, 3)).sqrt().max()) / scale

    solution = sampler.draw(ids, condition=run.condition)
    rows: list[list[str | float]] = []
    needed = float("inf")
    for steps, cost in calls.items():
        found = apart(theirs(first, steps))
        rows.append([f"{steps} steps", cost, cost, found])
        needed = min(needed, cost) if found <= AIM else needed
    rounds, own = float(solution.rounds.double().mean()), apart(solution.x)
    rows.append(["this package", rounds, float(solution.calls.double().mean()), own])
    report.add(title, ("", "calls one after the other", "calls of a sample", "largest difference, deviations"), rows)
    if report.name == "foreign":
        share = rounds / min(needed, calls[max(calls)])
        report.aims += [at_most(f"{title}: difference", own, AIM), at_most(f"{title}: rounds over calls", share, 0.25)]
    else:
        report.aims.append(at_most(f"{title}: difference", own, 0.1))


def measure_physicsnemo(report: Report, folder: Path, budget: Budget) -> None:
    _, coarse, _ = fields(budget.samples, torch.Generator().manual_seed(2))
    network = physicsnemo_folder(folder / "songunet", budget.steps)
    run = prepared(folder / "songunet", {"coarse": (("case", "y", "x"), coarse[:, 0].numpy())}, budget)
    theirs = heun(network, coarse, run.model.horizon, run.model.delta)
    truth = theirs(first_states(run), budget.heun[-1])
    compared(report, "physicsnemo: EDMPrecond", run, theirs, truth, {n: 2 * n for n in budget.heun[:-1]})


def measure_diffusers(report: Report, folder: Path, budget: Budget) -> None:
    _, _, classes = fields(budget.samples, torch.Generator().manual_seed(2))
    unet = diffusers_folder(folder / "unet", budget.steps)
    run = prepared(folder / "unet", {"kind": ("case", classes.numpy())}, budget)
    theirs = multistep(unet, classes, folder / "unet")
    truth = between_indices(unet, classes, run.model.process, first_states(run))
    compared(report, "diffusers: UNet2DModel", run, theirs, truth, {n: n for n in budget.multistep})


MEASURES = {"physicsnemo": measure_physicsnemo, "diffusers": measure_diffusers}


def main() -> int:
    options_parser = parser("Checkpoints of other packages against their own samplers.")
    options_parser.add_argument("--package", choices=list(MEASURES), nargs="+", default=list(MEASURES), help="whose networks")
    options = options_parser.parse_args()
    report = Report("foreign, quick" if options.quick else "foreign")
    with tempfile.TemporaryDirectory() as folder:
        for package in options.package:
            MEASURES[package](report, Path(folder), QUICK if options.quick else FULL)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
