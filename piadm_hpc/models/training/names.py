"""Names that a model folder and its samples can hold, looked at before anything is trained."""

from __future__ import annotations

import numpy as np

from ...data.gridded import DataConfig
from ...schema.layout import Coordinate, Layout, Variable
from ...store.validate import layout_problems

IN_THE_FOLDER = frozenset(
    {
        *("quantile_and_score", "variable", "month", "all_times", "mode", "shell", "harmonic", "zonal_wavenumber", "example"),
        *("mean_field", "scale_field", "mask", "climatology", "held_out_examples"),
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
    """Raise ValueError, naming `data.rename`, for names of variables and dimensions that samples could not be stored under."""
    coordinates = {dim: Coordinate((dim,), np.zeros(1)) for dim in config.spatial_dims}
    layout = Layout(tuple(Variable(name, config.spatial_dims) for name in config.variables), coordinates)
    problems = [problem.removeprefix("layout: ").partition(";")[0] for problem in layout_problems(layout)]
    problems = [problem.replace("is used twice", "is a name that files of samples use themselves") for problem in problems]
    problems += [f"{dim!r} is the name of an array in model folders" for dim in config.spatial_dims if dim in IN_THE_FOLDER]
    problems += [f"{dim!r} holds a slash" for dim in config.spatial_dims if "/" in dim]
    if problems:
        raise ValueError(
            f"samples could not be stored: {'; '.join(problems)}; choose other names with data.rename, "
            'for example {"2 metre temperature" = "t2m"}, and use these in all other keys'
        )
