"""A digest of a network that Python imports, so that a run notices when another network has the same name.

It covers source files, weights, and the values to which a function refers, as far as they are accessible. It does not cover what
a network reads while it is called (files, the environment, a compiled extension).
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype)
LIBRARIES = {"torch", "numpy", "diffusers", "scipy"} | sys.stdlib_module_names  # another version of them is another environment


def fingerprint(network: Any) -> tuple[str, tuple[str, ...]]:
    """Return the SHA-256 of a callable's source, weights and the values it refers to, and the names that were not accessible."""
    look = _Look()
    try:
        look.at(network, "the network")
    except RecursionError:
        look.unseen.append("values nested too deeply")
    return look.digest.hexdigest(), tuple(dict.fromkeys(look.unseen))


class _Look:
    """One walk through a callable: everything is visited once, in an order that does not depend on memory addresses."""

    def __init__(self) -> None:
        self.digest, self.unseen, self.visited = hashlib.sha256(), list[str](), set[int]()
        self.alive: list[Any] = []  # ids are unique only among objects that exist

    def at(self, value: Any, name: str) -> None:
        """Add one value under a name."""
        self.digest.update(f"{name}:".encode())
        if isinstance(value, PLAIN):
            self.digest.update(repr(value).encode())
        elif id(value) in self.visited:
            return
        else:
            self.visited.add(id(value))
            self.alive.append(value)
            self._object(value, name)

    def _object(self, value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            self._array(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), (value.dtype, value.shape))
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._array(np.ascontiguousarray(value).reshape(-1).view(np.uint8), (value.dtype, value.shape))
        elif isinstance(value, torch.nn.Module):
            self._module(value, name)
        elif isinstance(value, functools.partial):
            for part, inner in (("func", value.func), ("args", value.args), ("keywords", value.keywords)):
                self.at(inner, f"{name}.{part}")
        elif isinstance(value, types.MethodType):
            self.at(value.__self__, f"{name}.self")
            self.at(value.__func__, f"{name}.func")
        elif isinstance(value, types.FunctionType):
            self._function(value, name)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                self.at(value[key], f"{name}[{key!r}]")
        elif isinstance(value, (list, tuple)):
            for index, inner in enumerate(value):
                self.at(inner, f"{name}[{index}]")
        elif isinstance(value, type | types.ModuleType):
            self._source(value, name)
        elif hasattr(value, "__dict__"):
            self._source(type(value), name)
            self.at(vars(value), f"{name}.__dict__")
        else:
            self.unseen.append(f"{name} ({type(value).__name__})")

    def _array(self, raw: np.ndarray, kind: Any) -> None:
        self.digest.update(repr(kind).encode())
        self.digest.update(raw.tobytes())

    def _module(self, module: torch.nn.Module, name: str) -> None:
        """Weights, buffers (also those that are not saved), and the sources of the classes."""
        for kind in sorted({type(part) for part in module.modules()}, key=lambda kind: (kind.__module__, kind.__qualname__)):
            self._source(kind, name)
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            self.at(tensor, f"{name}.{key}")
        for path, part in module.named_modules():
            # objects that grow while the network is called, such as a list of calls, do not identify the network
            own = {key: inner for key, inner in vars(part).items() if not key.startswith("_") and key != "training"}
            self.at({key: inner for key, inner in own.items() if isinstance(inner, (*PLAIN, tuple))}, f"{name}.{path}")

    def _function(self, function: types.FunctionType, name: str) -> None:
        """The file that defines it, its defaults, its closure, and the values of the module that it names."""
        self._source(function, name)
        self.at(function.__defaults__ or (), f"{name}.defaults")
        for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.at(cell.cell_contents, f"{name}.{key}")
        named, written = _globals_of(function.__code__)
        for key in sorted(named - written):
            if key in function.__globals__ and not _of_a_library(function.__globals__[key]):
                self.at(function.__globals__[key], key)

    def _source(self, thing: Any, name: str) -> None:
        module = thing if isinstance(thing, types.ModuleType) else inspect.getmodule(thing)
        if module is None or _of_a_library(module):
            return
        try:
            self.at(inspect.getsource(module), f"source of {module.__name__}")
        except (OSError, TypeError):
            self.unseen.append(f"the source of {module.__name__}")


def _globals_of(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Names that a function's code reads from its module, and those that it writes there (counters, caches)."""
    named, written = set[str](), set[str]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            named.add(str(step.argval))
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            written.add(str(step.argval))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more, changed = _globals_of(inner)
            named |= more
            written |= changed
    return named, written


def _of_a_library(value: Any) -> bool:
    name = value.__name__ if isinstance(value, types.ModuleType) else str(getattr(value, "__module__", ""))
    return name.partition(".")[0] in LIBRARIES
