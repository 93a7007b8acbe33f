"""Names that a model folder and its samples can hold, checked before anything is trained."""

from __future__ import annotations

import logging

import numpy as np

from ...data.gridded import DataConfig, GriddedData
from ...schema.layout import STEP, Coordinate, Layout, Variable
from ...store.conventions import BLOCK, PER_SAMPLE
from ...store.validate import layout_problems

log = logging.getLogger(__name__)

IN_THE_FOLDER = frozenset(
    {
        *(
            "quantile_and_score",
            "variable",
            "channel_of_a_time",
            "channel",
            "other_channel",
            "month",
            "all_times",
            "mode",
            "shell",
            "harmonic",
            "zonal_wavenumber",
            "example",
        ),
        *("mean_field", "scale_field", "mask", "climatology", "held_out_examples", "train_correlation"),
        *(f"reference_{what}" for what in ("mean", "spectrum", "modes")),
        *(
            f"{part}_{what}"
            for part in ("train", "validation", "test")
            for what in ("mean", "std", "zonal_power", "area_mean", "sample")
        ),
    }
)
"""Arrays and dimensions of a model folder's files, beside the coordinates of its grid."""


def require_names(config: DataConfig) -> None:
    """Raise ValueError, naming `data.rename`, for names of variables and dimensions under which samples cannot be stored."""
    dims = (*((STEP,) if config.sequence > 1 else ()), *config.levels, *config.spatial_dims)
    coordinates = {dim: Coordinate((dim,), np.zeros(1)) for dim in dims}
    layout = Layout(tuple(Variable(name, dims) for name in config.variables), coordinates)
    problems = [problem.removeprefix("layout: ").partition(";")[0] for problem in layout_problems(layout)]
    problems = [problem.replace("is used twice", "is a name that files of samples use themselves") for problem in problems]
    problems += [f"{dim!r} is used twice" for dim in set(dims) if dims.count(dim) > 1]
    problems += [f"{dim!r} is the name of an array in model folders" for dim in dims if dim in IN_THE_FOLDER]
    problems += [f"{dim!r} holds a slash" for dim in dims if "/" in dim]
    if problems:
        raise ValueError(
            f"samples could not be stored: {'; '.join(problems)}; choose other names with data.rename, "
            'for example {"2 metre temperature" = "t2m"}, and use these in all other keys'
        )


def storable(data: GriddedData) -> dict[str, Coordinate]:
    """The auxiliary coordinates of the data that can be stored with samples; the log lists those whose names are taken."""
    taken = {*IN_THE_FOLDER, *PER_SAMPLE, BLOCK, "realization", "sample", "condition", *data.leading, *data.coordinates}
    taken |= {variable.name for variable in data.variables}
    left_out = [name for name in data.auxiliary if name in taken]
    if left_out:
        log.warning("coordinates %s have names that files of samples use themselves, and are left out", ", ".join(left_out))
    return {name: coordinate for name, coordinate in data.auxiliary.items() if name not in taken}
