"""Lets a torchvision that was built for CUDA be imported beside a torch for the CPU.

Its operators are in a library that does not load on such a machine, and its import fails because two of them are unknown.
diffusers and physicsnemo import torchvision, but their U-Nets need none of its operators, so that declaring the two is enough.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

NAMES = ("nms", "qnms")
SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
declared = []  # operators last as long as the library that declares them


class _Before(MetaPathFinder):
    """Declares the operators when torchvision is first imported; it finds no module itself."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _declare(Path(spec.origin).parent)
        return None


def _declare(folder: Path) -> None:
    import torch

    if hasattr(torch.ops.torchvision, NAMES[0]):  # asked twice: another finder has declared them
        return
    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(library)
            return
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in NAMES:
            library.define(SCHEMA.format(name))
        declared.append(library)


def install() -> None:
    """Have the operators declared as soon as torchvision is imported, where its own library does not load."""
    sys.meta_path.insert(0, _Before())
