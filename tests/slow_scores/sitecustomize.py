"""On the PYTHONPATH of a test's jobs: every score takes PIADM_TEST_DELAY seconds, so that there is time to disturb a run.

It may name a file instead, which is read again and again. Its one word are those seconds; a second one is the number of scores
after which this process waits until the file says otherwise.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

DELAY = os.environ.get("PIADM_TEST_DELAY", "0")


def pause(number: int) -> None:
    """Wait as long as DELAY says for the score of this number, also if that changes meanwhile."""
    began = time.monotonic()
    while True:
        seconds, _, last = (Path(DELAY).read_text() if "/" in DELAY else DELAY).partition(" ")
        if not (last and number > int(last)) and time.monotonic() - began >= float(seconds):
            return
        time.sleep(0.02)


class _Slow(MetaPathFinder, Loader):
    """Wraps `load_model` of piadm_hpc.models.card as that module is loaded."""

    inner: Any

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "piadm_hpc.models.card":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            self.inner, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)
        loader = module.load_model

        def load_model(*arguments: Any, **options: Any) -> Any:
            model, numbers = loader(*arguments, **options), itertools.count(1)

            def score(x: Any, t: Any, *condition: Any) -> Any:
                pause(next(numbers))
                return model.score(x, t, *condition)

            return replace(model, score=score)

        module.load_model = load_model


if DELAY != "0":
    sys.meta_path.insert(0, _Slow())
