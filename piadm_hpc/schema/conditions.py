"""Conditions: further arguments of a score beside states and times, a tree of tensors with one entry for every sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

# a tensor, or conditions by name; the first dimension of every tensor counts samples
Condition: TypeAlias = "Tensor | Mapping[str, Condition]"


def leaves(condition: Condition, name: str = "condition") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a condition with their dotted names."""
    if isinstance(condition, Tensor):
        yield name, condition
        return
    for key in sorted(condition):
        yield from leaves(condition[key], f"{name}.{key}")


def apply_to_leaves(condition: Condition, function: Callable[..., Tensor], *others: Condition) -> Condition:
    """Return a condition of the same form with `function` applied to every tensor, and to those of `others` at the same place."""
    if isinstance(condition, Tensor):
        return function(condition, *others)
    return {key: apply_to_leaves(part, function, *(other[key] for other in others)) for key, part in condition.items()}  # type: ignore[index]


def rows_of(condition: Condition, rows: Tensor | slice) -> Condition:
    """Return the entries of a condition at the positions `rows`."""
    return apply_to_leaves(condition, lambda values: values[rows.to(values.device) if isinstance(rows, Tensor) else rows])


def joined(*parts: Condition) -> Condition:
    """Concatenate conditions of the same form along their first dimension."""
    return apply_to_leaves(parts[0], lambda *tensors: torch.cat(tensors), *parts[1:])


def matched(condition: Condition, like: Tensor) -> Condition:
    """Return a condition on the device of `like`, its real numbers in the precision of `like`; integers keep their type."""

    def one(values: Tensor) -> Tensor:
        return values.to(like) if values.is_floating_point() else values.to(like.device)

    return apply_to_leaves(condition, one)


def mistakes_of_condition(condition: object, samples: int) -> Iterator[str]:
    """List the reasons why `condition` cannot be the condition of so many samples."""
    wrong = list(_not_tensors(condition, "condition"))
    if wrong:
        yield from wrong
        return
    for name, values in leaves(condition):  # type: ignore[arg-type]
        if values.ndim == 0 or len(values) != samples:
            yield f"{name} is {list(values.shape)} for {samples} samples; its first dimension must count samples"
        if values.is_complex():
            yield f"{name} is {values.dtype}; give real numbers, integers or booleans"
        elif not bool(torch.isfinite(values).all()):
            yield f"{name} contains numbers that are not finite"


def _not_tensors(condition: object, name: str) -> Iterator[str]:
    if isinstance(condition, Tensor):
        return
    if not isinstance(condition, Mapping) or not condition:
        yield f"{name} is {type(condition).__name__}; give a tensor, or a dictionary of tensors with at least one entry"
        return
    for key, part in condition.items():
        if isinstance(key, str):
            yield from _not_tensors(part, f"{name}.{key}")
        else:
            yield f"{name} has the key {key!r}; name its tensors with words"
