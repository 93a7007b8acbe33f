"""The same steps of the same U-Net of diffusers: its scheduler in a plain loop, and this package step by step.

    python benchmarks/plain_loop.py

Both take DDIM steps at the same whole indices of the same schedule. The time is processor time, which other programs on the
machine change less than wall time, of the shortest of several alternating runs; a network of random weights suffices.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from common import Cell, Report, at_most, parser
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

import piadm_hpc as piadm
from piadm_hpc import Options, integrators
from piadm_hpc.theory.grid import from_times
from piadm_hpc.theory.process import Tabulated

TRAINED = 1000
SLOWER, APART = 1.05, 1e-3
COLUMNS = ("samples", "steps", "size", "s, plain loop", "s, this package", "ratio", "largest difference")


def unet(size: int, width: int) -> UNet2DModel:
    """A small U-Net of three levels."""
    torch.manual_seed(0)
    down, up = ("DownBlock2D",) * 3, ("UpBlock2D",) * 3
    return UNet2DModel(
        sample_size=size,
        layers_per_block=1,
        block_out_channels=(width, 2 * width, 2 * width),
        norm_num_groups=8,
        down_block_types=down,
        up_block_types=up,
    ).eval()


def plain(network: UNet2DModel, scheduler: DDIMScheduler, first: Tensor) -> Tensor:
    """The loop that the documentation of diffusers shows."""
    x = first
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample
    return x


def ours(network: UNet2DModel, scheduler: DDIMScheduler) -> Callable[[Tensor], Tensor]:
    """The chain of the same steps, from the first index to the last one."""
    process = Tabulated.from_alphas_cumprod(scheduler.alphas_cumprod)
    chain = integrators.ddim(process, from_times(scheduler.timesteps.double()))
    score = piadm.wrap(lambda x, t: network(x, t).sample, predicts="eps", process=process)
    return lambda first: piadm.solve(chain, score, first, Options(solver="sequential")).x


def seconds(action: Callable[[Tensor], Tensor], first: Tensor) -> tuple[float, Tensor]:
    start = time.process_time()
    found = action(first)
    return time.process_time() - start, found


@torch.no_grad()
def row(report: Report, samples: int, options: object) -> list[Cell]:
    """One line: both loops from the same states, in turn."""
    steps, size, width, repeats = (getattr(options, name) for name in ("steps", "size", "width", "repeats"))
    network = unet(size, width)
    scheduler = DDIMScheduler(num_train_timesteps=TRAINED, clip_sample=False, timestep_spacing="leading")
    scheduler.set_timesteps(steps + 1)
    solve = ours(network, scheduler)
    # the last index is where the chain ends, so the plain loop stops before it too
    scheduler.timesteps = scheduler.timesteps[:-1]
    first = torch.randn(samples, 3, size, size)
    network(first, scheduler.timesteps[0])
    runs = [(seconds(lambda x: plain(network, scheduler, x), first), seconds(solve, first)) for _ in range(repeats)]
    theirs, mine = (min(run[side][0] for run in runs) for side in (0, 1))
    apart = float((runs[0][0][1] - runs[0][1][1]).abs().max())
    report.aims.append(at_most(f"{samples} samples: time over a plain loop", mine / theirs, options.slower))
    report.aims.append(at_most(f"{samples} samples: largest difference", apart, APART))
    return [samples, steps, f"3 x {size} x {size}", theirs, mine, mine / theirs, apart]


def main() -> int:
    options_parser = parser("This package against a plain loop of a diffusers scheduler.")
    options_parser.add_argument("--samples", type=int, nargs="+", default=[1, 8])
    options_parser.add_argument("--steps", type=int, default=20)
    options_parser.add_argument("--size", type=int, default=32)
    options_parser.add_argument("--width", type=int, default=32)
    options_parser.add_argument("--repeats", type=int, default=5)
    options_parser.set_defaults(slower=SLOWER)
    options = options_parser.parse_args()
    if options.quick:
        options.samples, options.steps, options.size, options.width, options.repeats = [1], 3, 16, 8, 1
        options.slower = 100.0
    torch.set_num_threads(1)
    report = Report("plain loop")
    report.add("DDIM steps, float32, one thread", COLUMNS, [row(report, samples, options) for samples in options.samples])
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
