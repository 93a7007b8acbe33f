"""Make the pictures of docs/images from two runs, small enough for the repository.

    python docs/gallery.py          a few minutes; writes its runs to gallery-runs/ in the current folder

docs/images/ranks.svg, docs/calls.svg, docs/calls-molecule.svg and docs/compare.svg are made by the commands printed beside them.
"""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import piadm_hpc
from piadm_hpc.analysis.drawing.maps import colour_bar, draw_map
from piadm_hpc.analysis.drawing.style import styled
from piadm_hpc.analysis.grids import grid_of

IMAGES = Path(__file__).resolve().parent / "images"
RUNS = Path("gallery-runs")
WIDTH, COLOURS = 900, 96  # all pictures together stay below 300 kB


def piadm(*words: str, ranks: int | None = None) -> None:
    """One command of the package, with this interpreter, alone or on some MPI ranks."""
    launcher = [] if ranks is None else ["mpiexec", "-n", str(ranks)]
    subprocess.run([*launcher, sys.executable, "-m", "piadm_hpc", *words], check=True)


def save(image: Image.Image, name: str) -> None:
    """Save the picture at most WIDTH wide, with few colours."""
    image = image.convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    IMAGES.mkdir(exist_ok=True)
    # covers the ends of colour scales first, then the middle
    few = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=8, dither=Image.Dither.NONE)
    few.save(IMAGES / name, optimize=True)


def first_of_page(run: Path, name: str) -> None:
    """The first figure on the page that `piadm verify` has written."""
    page = (run / "report" / "verify.html").read_text(encoding="utf-8")
    first = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)[0]
    save(Image.open(io.BytesIO(base64.b64decode(first))), name)


def fields() -> None:
    """The eight fields of the demo: figures of report and verify, and four of them as deviations from their mean."""
    run = RUNS / "demo"
    options = ("--model", "ccsm-temperature", "--samples", "8", "--time-ranks", "2")
    piadm("sample", *options, "--out", str(run), "--overwrite", ranks=2)
    piadm("report", str(run), "--baselines", "1")
    save(Image.open(run / "report.png"), "report.png")
    piadm("verify", str(run))
    first_of_page(run, "verification.png")
    data = piadm_hpc.open(run)
    apart = data.TREFHT - data.TREFHT.mean("realization")
    grid = grid_of(data, "TREFHT", ["realization"])
    with styled():
        figure = Figure(figsize=(11, 2.4), layout="constrained")
        axes = figure.subplots(1, 4)
        for number, axis in enumerate(axes):
            drawn = draw_map(axis, grid, apart[number].values, {"cmap": "RdBu_r", "vmin": -4, "vmax": 4}, f"sample {number}")
        colour_bar(drawn, axes, "deviation from the mean [K]", extend="both")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100)
    save(Image.open(buffer), "samples.png")


def conformers() -> None:
    """The free-energy surface over the torsions, of samples and of held-out dynamics."""
    run = RUNS / "ala"
    batches = ("--set", "output.batch=512", "--set", "compute.model_batch=4096")
    piadm("sample", "--model", "alanine-dipeptide", "--samples", "4096", "--out", str(run), "--overwrite", *batches)
    piadm("verify", str(run))
    first_of_page(run, "ramachandran.png")


if __name__ == "__main__":
    fields()
    conformers()
