"""Training from a configuration of either kind: fields on a grid, or conformers of a molecule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...config.validation import override
from ..config import ConformerTrainConfig, TrainConfig, load_config, parsed
from .fields import Report, say
from .fields import train as train_fields
from .molecules import train_conformers


def train(
    config: TrainConfig | ConformerTrainConfig | Mapping[str, Any] | str | Path,
    *,
    changes: Iterable[str] = (),
    root: str | Path = ".",
    report: Report = say,
    afterwards: int = 0,
) -> Path:
    """Train a model and return its folder; an interrupted training continues.

    `config` is a file like that of `piadm init train`, with `changes` as for `--set` ("optimiser.steps=2000"), a mapping of the
    same keys, or a validated configuration. Data files are found from `root`, and `report` is called with lines of
    progress. A limit of minutes leaves room for `afterwards` rows of the network, which the caller evaluates next.
    Raises ConfigError listing every mistake of a configuration, and ValueError for data that cannot be used.
    """
    if isinstance(config, str | Path):
        settings = load_config(config, [override(text) for text in changes])
    elif changes:
        raise ValueError("changes belong to a configuration file; change the mapping or the record itself")
    else:
        settings = parsed(config) if isinstance(config, Mapping) else config
    if isinstance(settings, ConformerTrainConfig):
        return train_conformers(settings, root=Path(root), report=report, afterwards=afterwards)
    return train_fields(settings, root=Path(root), report=report, afterwards=afterwards)
