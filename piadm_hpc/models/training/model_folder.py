"""Model folders of finished training runs: the card with its scores, the arrays, the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...data.gridded import GriddedData
from ...schema.conditions import Condition
from ...schema.layout import Coordinate, Variable
from ...theory.process import Process
from ..card import save_model
from ..climatology import CLIMATOLOGY, NAMES
from ..config import ConformerTrainConfig, TrainConfig
from ..denoiser import GaussianDenoiser
from ..networks.unet import count_parameters
from ..packing import describe_reference, pack_gate, pack_regression
from ..record import FORMAT, Card, DataCard, ProcessCard, ScoreCard, TrainingCard, VariableCard
from .checkpoint import TrainingState
from .conditioned import Conditioned
from .evaluation import DenoisingTable, denoising_table, even_levels
from .names import storable
from .statistics import data_statistics

AnyConfig = TrainConfig | ConformerTrainConfig


class Parts(Protocol):
    """Training, validation and test states [n, *event], and the names of their files."""

    @property
    def train(self) -> Tensor: ...

    @property
    def validation(self) -> Tensor: ...

    @property
    def test(self) -> Tensor: ...

    @property
    def conditions(self) -> Mapping[str, Condition]: ...

    @property
    def files(self) -> tuple[str, ...]: ...


def publish(
    folder: Path,
    config: TrainConfig,
    data: GriddedData,
    denoiser: GaussianDenoiser,
    state: TrainingState | None,
    given: Conditioned[GriddedData] | None = None,
) -> Path:
    """Score the denoiser on held-out states, write the model folder and return it."""
    further = data.leading | storable(data)
    card = make_card(
        config,
        data,
        data.excluded,
        denoiser,
        state,
        normalisation="state = (field - mean_field) / scale_field, zero where mask is zero",
        anomaly=config.data.anomaly,
        wrap=data.wrap,
        variables=tuple(_variable_card(v, further) for v in data.variables),
        leading=tuple(data.leading),
        auxiliary=tuple(name for name in further if name not in data.leading),
        condition=None if given is None else given.card,
    )
    extra = {} if data.climatology is None else _climatology(data.climatology, tuple(data.coordinates), data.absolute_names)
    extra |= {} if given is None else pack_regression(given.conditioning.regression, tuple(data.coordinates))
    extra |= pack_gate(denoiser.gate)
    statistics = data_statistics(data if given is None else given.original)
    arrays = denoiser.reference, data.normalisation, data.coordinates, denoiser.network
    return save_model(folder, card, *arrays, further, extra, statistics)


def make_card(
    config: AnyConfig, data: Parts, excluded: int, denoiser: GaussianDenoiser, state: TrainingState | None, **own: Any
) -> Card:
    """The model card with scores on held-out states; `own` are the entries that depend on the kind of data."""
    return Card(
        format=FORMAT,
        name=config.name,
        title=config.title,
        version=package_version(),
        prediction=denoiser.prediction,
        process=process_card(config, denoiser),
        reference=describe_reference(denoiser.reference),
        network=None if config.network == "none" else config.network,
        data=DataCard(
            source=config.data.source,
            licence=config.data.licence,
            files=data.files,
            train=len(data.train),
            validation=len(data.validation),
            test=len(data.test),
            excluded=excluded,
            calendar=getattr(data, "calendar", ""),
        ),
        sampling=config.sampling,
        training=training_card(config, denoiser.network, state),
        scores=scores_of(config, data, denoiser),
        sha256={},
        **own,
    )


def package_version() -> str:
    """The version of the installed package, or "unknown" if it is not installed."""
    try:
        return version("piadm_hpc")
    except PackageNotFoundError:
        return "unknown"


def process_card(config: AnyConfig, denoiser: GaussianDenoiser) -> ProcessCard:
    """Recommended times: start where a hundredth of the variance of the strongest mode is left, stop at a noise level of 1.4 %.

    Samples contain the remaining noise: 3 % of it adds a fifth to the power of the smallest scales of a climate field.
    """
    forgotten = max(8.0, math.ceil(math.log(max(1.0, float(denoiser.reference.spectrum.max())) / 0.01)))
    horizon = config.horizon or _at(denoiser.process, forgotten)
    delta = config.delta or _at(denoiser.process, 2e-4)
    trained = None if denoiser.network is None else (config.noise.lowest, config.noise.highest)
    return ProcessCard(
        name=config.noise.process,
        parameters=config.process_parameters,
        horizon=horizon,
        delta=delta,
        log_snr_trained=trained,
    )


def _at(process: Process, theta: float) -> float:
    return float(process.time(torch.tensor(theta, dtype=torch.float64)))


def _variable_card(variable: Variable, further: Mapping[str, Coordinate]) -> VariableCard:
    known = {k: v for k, v in variable.attrs.items() if k in ("units", "long_name", "standard_name", "cell_methods")}
    mapping = variable.attrs.get("grid_mapping")
    return VariableCard(name=variable.name, dims=variable.dims, grid_mapping=mapping if mapping in further else None, **known)


def training_card(config: AnyConfig, network: nn.Module | None, state: TrainingState | None) -> TrainingCard:
    """How the weights were trained, with the configuration that reproduces them."""
    record = config.model_dump(mode="json", exclude_none=True)
    # an absent limit means the same, and is easier to read than inf
    if math.isinf(config.optimiser.max_minutes):
        record["optimiser"].pop("max_minutes")
    record.pop("output")
    return TrainingCard(
        command="piadm train RECIPE.toml, with the configuration below as RECIPE.toml",
        steps=0 if state is None else state.step,
        best_step=0 if state is None else state.best_step,
        minutes=0.0 if state is None else round(state.minutes, 1),
        parameters=0 if network is None else count_parameters(network),
        config=record,
    )


def scores_of(config: AnyConfig, data: Parts, denoiser: GaussianDenoiser) -> dict[str, ScoreCard]:
    """Denoising errors on validation and test states, by part."""
    levels = even_levels(config.noise.lowest, config.noise.highest)
    parts = {"validation": data.validation, "test": data.test}
    return {
        name: _score_card(
            denoising_table(denoiser, states, levels, seed=config.seed, condition=data.conditions.get(name)), len(states)
        )
        for name, states in parts.items()
        if len(states)
    }


def _score_card(table: DenoisingTable, states: int) -> ScoreCard:
    def short(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(float(f"{v:.4g}") for v in values)

    return ScoreCard(
        states=states,
        log_snr=table.log_snr,
        denoiser=short(table.denoiser),
        gaussian=short(table.gaussian),
        ratio=short(table.ratios),
    )


def _climatology(removed: np.ndarray, grid: tuple[str, ...], names: Mapping[str, Mapping[str, str]]) -> dict[str, Coordinate]:
    """The mean [1 or 12, variables, lat, lon] that was subtracted for anomalies, with the names of the absolute fields."""
    what, dim = ("mean of each calendar month", "month") if len(removed) == 12 else ("mean over time", "all_times")
    attrs = {"long_name": f"{what}, removed from the fields and not added back", NAMES: json.dumps(names)}
    return {CLIMATOLOGY: Coordinate((dim, "channel_of_a_time", *grid), removed, attrs)}
