"""The checks of rank_checks.py on 1, 2, 3 and 4 ranks: one launch per rank count, one verdict per check."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from launching import launch
from rank_checks import CHECKS


@cache
def verdicts(ranks: int) -> dict[str, str]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "verdicts.json"
        script = str(Path(__file__).with_name("rank_checks.py"))
        done = launch([sys.executable, script, str(path)], ranks=ranks, timeout=240)
        if not path.exists():
            raise RuntimeError(f"{ranks} ranks ended with code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_on_ranks(ranks: int, check: str) -> None:
    problem = verdicts(ranks)[check]
    assert not problem, problem
