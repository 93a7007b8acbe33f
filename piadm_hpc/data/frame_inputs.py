"""The inputs of a conditional model of conformers: a number, such as the temperature, or a class for every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .classes import require_declared, require_whole_numbers
from .gridded_files import open_fields
from .inputs import expand
from .mistakes import gathered, named, undamaged
from .units import converted, units_of


class FrameInputConfig(BaseModel):
    """One input of a condition of conformers: a "scalar", or a "class", a whole number below `classes`.

    `by_file` gives all frames of a trajectory one number, by its name or glob. Without it every frame has a number of its own,
    the `variable` (default: the input's own name) of `files`, one for each trajectory in their order, and without these of the
    trajectories themselves, if they are HDF5 files such as those of mdtraj. `units` are the model's (default: those of the
    files).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["scalar", "class"]
    by_file: dict[str, float] = {}
    variable: str | None = None
    files: tuple[str, ...] = ()
    units: str | None = None
    classes: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.by_file and (self.files or self.variable):
            raise ValueError("numbers come from `by_file`, or from a `variable` of `files`; leave one out")
        require_declared(self.kind, self.classes)
        return self


class FrameConditionConfig(BaseModel):
    """The section `condition` of a recipe of conformers: its inputs, and the share of training frames that are shown none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], FrameInputConfig] = Field(min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True)
class FrameInput:
    """The numbers [n] of an input, one for every frame, NaN where a file has none, and their units."""

    values: np.ndarray
    units: str


def read_frame_inputs(
    config: FrameConditionConfig, trajectories: Sequence[Path], counts: Sequence[int], part: slice, root: Path
) -> dict[str, FrameInput]:
    """Read the inputs of the frames `part` of trajectories, so many of each; ValueError listing everything that does not fit."""
    mistakes: list[str] = []
    found = {}
    for name, given in config.inputs.items():
        with gathered(mistakes), named(f"condition.inputs.{name}:"):
            if given.by_file:
                numbers = _by_file(given.by_file, trajectories, root)
                found[name] = FrameInput(np.repeat(numbers, counts), given.units or "1")
            else:
                found[name] = _by_frame(given, given.variable or name, trajectories, counts, part, root)
            if given.classes is not None:
                require_whole_numbers(found[name].values, 0, given.classes - 1)
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return found


def _by_file(numbers: dict[str, float], trajectories: Sequence[Path], root: Path) -> np.ndarray:
    """The number of each trajectory [files]; ValueError for trajectories without one, or with several."""
    resolved = [path.resolve() for path in trajectories]
    found: list[set[float]] = [set() for _ in trajectories]
    for pattern, number in numbers.items():
        here = {path.resolve() for path in expand((pattern,), root, "by_file")}
        if not here & set(resolved):
            raise ValueError(f"by_file: {pattern!r} is none of the trajectories {', '.join(map(str, trajectories))}")
        for place in (k for k, path in enumerate(resolved) if path in here):
            found[place].add(number)
    wrong = [f"{path} has {len(one) or 'no'} numbers" for path, one in zip(trajectories, found, strict=True) if len(one) != 1]
    if wrong:
        raise ValueError(f"by_file: {', '.join(wrong)}; give each trajectory exactly one")
    return np.array([one.pop() for one in found], dtype=np.float64)


def _by_frame(
    given: FrameInputConfig, variable: str, trajectories: Sequence[Path], counts: Sequence[int], part: slice, root: Path
) -> FrameInput:
    """Numbers from files, one for every frame."""
    paths = expand(given.files, root, "files") if given.files else trajectories
    if len(paths) != len(trajectories):
        raise ValueError(f"{len(paths)} files for {len(trajectories)} trajectories; give one for each, in their order")
    units, parts = given.units, []
    for path, trajectory, count in zip(paths, trajectories, counts, strict=True):
        with named(f"{path}:"):
            values, own = _numbers(path, variable)
            chosen = values[part]
            if len(chosen) != count:
                raise ValueError(
                    f"{variable} has {len(values)} values, of which {len(chosen)} are used, and {count} frames of {trajectory} "
                    "are; give one value for each frame of the whole trajectory"
                )
            units = units or own
            parts.append(chosen if own is None or units is None else converted(chosen, own, units))
    return FrameInput(np.concatenate(parts).astype(np.float64), units or "1")


def _numbers(path: Path, variable: str) -> tuple[np.ndarray, str | None]:
    """All values [n] of a variable of a file, and their units. Raises ValueError unless it has one number per sample."""
    try:
        dataset = open_fields(path)
    except ValueError as error:
        raise ValueError(f"{error}; give `files` with one number a frame, or `by_file`") from None
    with undamaged(), dataset:
        if variable not in dataset.variables:
            there = ", ".join(map(str, dataset.data_vars))
            raise ValueError(f"there is no {variable}; the file has {there}; give `variable`, `files` or `by_file`")
        array = dataset[variable]
        if array.ndim != 1 or array.dtype.kind not in "fiub":
            raise ValueError(f"{variable} is {array.dtype} over ({', '.join(map(str, array.dims))}); it must be a number a frame")
        own = units_of(array.attrs)
        return array.values.astype(np.float64), own
