"""The Python examples of README and docs run page by page, as if a reader typed them one after the other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from piadm_hpc.host.launcher import local_environment

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
PAGES = [page for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]) if EXAMPLE.search(page.read_text(encoding="utf-8"))]
# folders of runs that pages mention
FIELDS, CONFORMERS = ("fields", "demo", "run"), "ala"
# see the file: a torchvision for CUDA may stand beside a torch for the processor
REPAIR = f"import sys; sys.path.append({str(ROOT / 'benchmarks')!r}); import torchvision_repair; torchvision_repair.install()"
# what the words around an example say is there; all else must stand in the examples
GIVEN = {
    "README.md": f"""
import runpy
own = runpy.run_path({str(ROOT / "docs" / "tutorial" / "04_own_tables.py")!r})
P, Q, N, t, alpha, sigma = (getattr(own["chain"], name) for name in ("P", "Q", "N", "t", "alpha", "sigma"))
score, x0, xi, sea = own["score"], own["x0"], own["xi"], own["sea"]
""",
    "docs/output.md": "import numpy as np\n",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small runs of both shipped models, under the names that the pages use."""
    import piadm_hpc as piadm

    folder = tmp_path_factory.mktemp("pages")
    asked = {"solver": {"tol": 1e-2}, "statistics": {"kinds": ("mean", "std")}}
    fields = piadm.RunConfig(model="ccsm-temperature", samples=8, out=str(folder / "fields"), **asked)
    piadm.sample(fields).close()
    for name in FIELDS[1:]:
        shutil.copytree(folder / "fields", folder / name)
    piadm.sample(piadm.RunConfig(model="alanine-dipeptide", samples=2, out=str(folder / CONFORMERS), grid={"steps": 8})).close()
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page: Path, runs: Path) -> None:
    blocks = EXAMPLE.findall(page.read_text(encoding="utf-8"))
    script = "\n".join([REPAIR, GIVEN.get(str(page.relative_to(ROOT)), ""), *blocks])
    environment = {**local_environment(1), "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=runs, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_pages_that_are_given_something_have_examples() -> None:
    assert set(GIVEN) <= {str(page.relative_to(ROOT)) for page in PAGES}
