"""Samples of a domain made of overlapping patches: their spectrum compared with the patch model's, and the seams.

    python benchmarks/patches.py --model turbulence-windows

The model is one trained by datasets/turbulence-windows.toml. Windows of samples of the domain, cut both within patches and
across their edges, are tapered and compared with samples of the model itself, wave number by wave number. The mean squared
gradient at the edges of patches is compared with that of all points.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import Report, between, by_shell, parser
from torch import Tensor

import piadm_hpc
from piadm_hpc.models.model import Model
from piadm_hpc.models.patches import PatchedScore, patched
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.sampler import Sampler

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datasets" / "turbulence"))


def draw(model: Model, count: int, steps: int, batch: int = 8) -> Tensor:
    """Samples [count, rows, columns] of the flow, step by step."""
    grid = piadm_hpc.grid.log_snr(model.process, steps, horizon=model.horizon, delta=model.delta)
    chain = piadm_hpc.integrators.build("gaussian-ab2", model.process, grid, reference=model.reference)
    options = Options(solver="sequential", model_batch=batch)
    sampler = Sampler(chain, model.score, model.event_shape, 0, options, reference=model.reference)
    return torch.cat([sampler.draw(range(k, min(k + batch, count))).x for k in range(0, count, batch)])


def spectrum(windows: Tensor) -> Tensor:
    """Mean power of tapered windows [n, side, side] by rounded wave number, up to half of what the grid resolves."""
    side = windows.shape[-1]
    taper = torch.hann_window(side, periodic=False)
    power = torch.fft.fft2(windows.float() * taper[:, None] * taper).abs().square().mean(0)
    return by_shell(power)[1 : side // 4 + 1]


def seams(x: Tensor, begins: list[int]) -> float:
    """Mean squared gradient across the edges of patches over that across all points."""
    gradients = [torch.diff(field, dim=-1).square().mean((0, 1)) for field in (x, x.mT)]
    edges = [begin - 1 for begin in begins if begin]
    return float(np.mean([float(each[edges].mean() / each.mean()) for each in gradients]))


def compare(report: Report, model: Model, size: int, overlap: int | None, counts: tuple[int, int], loose: float) -> None:
    """Domains that are periodic, that end, and that are periodic with scores averaged alone."""
    small, side = spectrum(draw(model, counts[0], 24)), model.event_shape[0]
    rows: list[list[str | float]] = []
    for name in ("periodic", "ends", "averages alone"):
        large = patched(model, (size, size), overlap=overlap, periodic=name != "ends")
        assert isinstance(large.score, PatchedScore)
        tiling = large.score.tiling
        if name == "averages alone":
            large = replace(large, score=replace(large.score, large=None))
        x = draw(large, counts[1], 24, batch=1)
        found = x.unfold(1, side, side // 2).unfold(2, side, side // 2).reshape(-1, side, side)
        ratio, edge = spectrum(found) / small, seams(x, tiling.begins(0))
        weights = small / small.sum()
        apart = float((ratio - 1).abs().max())
        rows.append([name, float(ratio.min()), float(ratio.max()), float((weights * ratio).sum()), edge])
        if name != "averages alone":
            report.aims.append(between(f"{name}: largest departure of the spectrum", apart, 0, loose))
            report.aims.append(between(f"{name}: squared gradient at seams over all", edge, 1 - loose / 2, 1 + loose / 2))
    columns = ("domain", "least ratio of spectra", "largest", "ratio of power", "gradient at seams")
    report.add(f"{size} x {size} of patches of {side} x {side}", columns, rows)


def synthetic(folder: Path) -> Model:
    """The Gaussian of windows of 16 x 16 points, for a quick run."""
    from barotropic import Barotropic, dataset

    fields = np.stack(list(Barotropic(64).fields(12, 24, seed=0, spin_up=3)))
    windows = fields.reshape(len(fields), 4, 16, 4, 16).swapaxes(2, 3).reshape(-1, 16, 16)
    dataset(windows, 0.25).to_netcdf(folder / "windows.nc")
    recipe = Path(__file__).resolve().parents[1] / "datasets" / "turbulence-windows.toml"
    changes = [f'output="{folder}/model"', 'network="none"', f'data.files=["{folder}/windows.nc"]']
    return piadm_hpc.load_model(piadm_hpc.train(recipe, changes=changes))


def main() -> int:
    options_parser = parser("Samples of a domain made of overlapping patches: spectrum and seams.")
    options_parser.add_argument("--model", default="turbulence-windows", help="a model folder")
    options_parser.add_argument("--size", type=int, default=256, help="rows and columns of the domain")
    options_parser.add_argument("--overlap", type=int, help="points that neighbouring patches share [half a patch]")
    options_parser.add_argument("--samples", type=int, default=4, help="samples of the domain")
    options = options_parser.parse_args()
    report = Report("patches, quick" if options.quick else "patches")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            compare(report, synthetic(Path(folder)), 48, None, (64, 8), loose=0.6)
            return report.finish(options.json)
    compare(report, piadm_hpc.load_model(options.model), options.size, options.overlap, (128, options.samples), loose=0.1)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
