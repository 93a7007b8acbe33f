"""The conditions of a run: read and checked before any work, and assigned to the samples of the run by their ids.

A run of M members and K conditions has the ids m K + k, so that more members can be appended, and member m has the same noise
for every condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..data.condition_files import GivenConditions, digest_of
from ..data.conditions import Input
from ..models.card import Model
from ..models.condition_frame import ConditionFrame
from ..models.registry import find_model
from ..schema.conditions import Condition, matched, rows_of
from ..schema.layout import Coordinate, Layout

SAMPLE_DIM = "sample"  # of a run of several conditions, whose samples are members times conditions


def completed(config: RunConfig) -> RunConfig:
    """Fill in how many conditions a run's file holds, and its checksum; the configuration itself where it has no condition.

    Raises ConfigError for a file that does not fit the model, and for one that has changed.
    """
    if config.condition.file is None:
        return config
    found, checksum = given_conditions(config), _digest(config)
    known = config.condition.sha256
    if known and (known, config.condition.count) != (checksum, len(found)):
        raise ConfigError(f"condition.file: {config.condition.file} is not the file that this configuration was written for")
    return config.replace(condition={"count": len(found), "sha256": checksum})


def given_conditions(config: RunConfig) -> GivenConditions:
    """Read the conditions of a run, in the model's units and on its grid; ConfigError listing everything that does not fit."""
    try:
        return _of_run(config, _whole_file(config))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _whole_file(config: RunConfig) -> GivenConditions:
    frame = ConditionFrame.of(find_model(config.model))
    if frame is None:
        raise ValueError(f"condition.file: the model {config.model} takes no condition; leave it out")
    if config.domain.shape is not None:
        frame = frame.over(config.domain.shape)
    path = Path(str(config.condition.file))
    digest_of(path)
    return frame.read(path)


def _of_run(config: RunConfig, given: GivenConditions) -> GivenConditions:
    """Those conditions of a file that a run draws; ValueError for absent ones, and for starts of forecasts with one date."""
    found = given if config.condition.only is None else _chosen(given, config.condition.only)
    if config.rollout.leads is not None:
        _require_different(found.labels.values)
    return found


def _require_different(starts: np.ndarray) -> None:
    """Raise ValueError for starts with the same label, by which forecasts and their random numbers are told apart."""
    places: dict[object, list[str]] = {}
    for number, label in enumerate(starts.tolist()):
        places.setdefault(label, []).append(str(number))
    twice = [f"{', '.join(numbers)} ({label})" for label, numbers in places.items() if len(numbers) > 1]
    if twice:
        raise ValueError(
            f"several starts have one date: {'; '.join(twice)}; forecasts and their random numbers are told apart by it. "
            "Forecast each in a run of its own (--array condition.only=0-3), or give the starts different labels"
        )


def require_conditions(configs: Sequence[RunConfig]) -> None:
    """Check the conditions of several runs; each file is read once.

    Raises ConfigError for a conditional model without a file of conditions, for everything in a file that does not fit, and for
    all numbers of conditions that a file lacks. A model that does not exist yet is left to its job.
    """
    together: dict[tuple[object, ...], list[RunConfig]] = {}
    for config in configs:
        if config.condition.file is not None:
            together.setdefault((config.model, config.condition.file, config.domain.shape), []).append(config)
    for model in {config.model for config in configs if config.condition.file is None}:
        frame = None
        with suppress(OSError, ValueError):
            frame = ConditionFrame.of(find_model(model))
        if frame is not None:
            raise _without_file(Path(model).name, frame.inputs)
    for alike in together.values():
        chosen = {number for config in alike for number in config.condition.only or ()}
        try:
            given = _whole_file(alike[0])
            _chosen(given, sorted(chosen))
            for config in alike:
                _of_run(config, given)
        except ValueError as error:
            raise ConfigError(str(error)) from None


def _chosen(given: GivenConditions, numbers: Sequence[int]) -> GivenConditions:
    """The conditions with these numbers, with their own labels; ValueError for numbers that the file does not have."""
    absent = [str(number) for number in numbers if not 0 <= number < len(given)]
    if absent:
        accepted = f"its file holds {len(given)}, numbered from 0 to {len(given) - 1}"
        raise ValueError(f"condition.only: there is no condition {', '.join(absent)}; {accepted}")
    rows = list(numbers)
    labels = replace(given.labels, values=given.labels.values[rows])
    return GivenConditions({name: values[rows] for name, values in given.values.items()}, labels)


def encoded_conditions(config: RunConfig, model: Model, device: str) -> Condition | None:
    """The conditions of a run as the model's score takes them; None for a model without. ConfigError for what does not fit."""
    weight = config.condition.guidance
    if model.conditioning is None:
        if config.condition.file is not None or weight != 1:
            raise ConfigError(
                f"condition: the model {model.name} takes no condition; leave condition.file and condition.guidance out"
            )
        return None
    if config.condition.file is None:
        raise _without_file(model.name, model.conditioning.inputs)
    if weight != 1 and not model.card["condition"]["dropout"]:
        raise ConfigError(
            f"condition.guidance = {weight:g}: {model.name} was trained without condition.dropout; leave guidance out"
        )
    values = given_conditions(config).values
    return matched(model.conditioning.encode(values), torch.zeros((), device=device))


def _without_file(name: str, inputs: Sequence[Input]) -> ConfigError:
    """The error for a conditional model without a file of conditions."""
    names = ", ".join(given.name for given in inputs)
    return ConfigError(f"{name} is conditional on {names}: give condition.file (--condition FILE), with inputs of these names")


def of_samples(condition: Condition | None, count: int, samples: Sequence[int]) -> Condition | None:
    """The condition of every sample, by the samples' ids, in a run of so many conditions."""
    return None if condition is None else rows_of(condition, torch.tensor([sample % count for sample in samples]))


def layout_of(config: RunConfig, layout: Layout) -> Layout:
    """The layout of a run's files; several conditions are a coordinate of their own."""
    leads = config.rollout.leads
    if config.condition.count == 1 and leads is None:
        return layout
    labels = given_conditions(config).labels
    if leads is not None:
        return replace(layout, sample_dim=SAMPLE_DIM, coordinates={**layout.coordinates, **_of_leads(labels, leads)})
    return replace(layout, sample_dim=SAMPLE_DIM, coordinates={**layout.coordinates, labels.dims[0]: labels})


def _of_leads(labels: Coordinate, leads: int) -> dict[str, Coordinate]:
    """The starts and leads of the forecasts of a member, along one dimension."""
    dims, numbers = labels.dims, np.arange(1, leads + 1, dtype=np.int32)
    count = len(labels.values)
    return {
        dims[0]: Coordinate(dims, np.arange(count * leads, dtype=np.int32), {"long_name": "number of the forecast"}),
        "init_time": Coordinate(dims, np.repeat(labels.values, leads), starts_described(labels)),
        "lead_time": Coordinate(dims, np.tile(numbers, count), {"long_name": "number of the lead", "units": "1"}),
    }


def starts_described(labels: Coordinate) -> dict[str, str]:
    """The attributes of the starts of forecasts, which keep the calendar of dates."""
    return {"long_name": "start of the forecast"} | {key: labels.attrs[key] for key in ("calendar",) if key in labels.attrs}


def coordinates_of(config: RunConfig, samples: Sequence[int]) -> dict[str, np.ndarray]:
    """Number of the member and of the condition of every sample, where there are several conditions."""
    count = config.condition.count * (config.rollout.leads or 1)
    if count == 1 and config.rollout.leads is None:
        return {}
    ids = np.asarray(samples, dtype=np.int32)
    return {"member": ids // count, "condition_index": ids % count}


def months_of_run(config: RunConfig) -> np.ndarray | None:
    """The months of a run's samples, 1 to 12, in turn: those of its conditions, or of absolute observations."""
    if config.observations is not None and config.observations.month is not None:
        return np.array([config.observations.month], dtype=np.int32)
    if config.condition.file is None:
        return None
    frame = ConditionFrame.of(find_model(config.model))
    names = [] if frame is None else [one.name for one in frame.inputs if one.kind == "month"]
    file = Path(config.condition.file)
    if not names or not file.exists() or digest_of(file) != config.condition.sha256:
        return None
    months = given_conditions(config).values[names[0]].astype(np.int32)
    leads = config.rollout.leads
    if leads is None:
        return months
    # the sample of start s and lead l, from 0 on, is the one numbered s L + l among those of a member
    return np.asarray((months[:, None] - 1 + config.rollout.months * np.arange(leads)) % 12 + 1, dtype=np.int32).ravel()


def _digest(config: RunConfig) -> str:
    try:
        return digest_of(Path(str(config.condition.file)))
    except (OSError, ValueError) as error:
        raise ConfigError(f"condition.file: {error}") from None
