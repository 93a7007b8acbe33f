"""The fields that a model generates, read from its folder without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..schema.layout import Layout, Variable
from ..store.arrays import read_arrays
from .adapter_layout import make_layout, read_grid
from .adapters import read_adapter
from .card import REFERENCE
from .foreign import ADAPTER
from .record import VariableCard, read_card
from .registry import CARD, find_model


def variables_of(folder: str | Path) -> tuple[VariableCard, ...]:
    """Return the fields that a model generates, with their attributes, from its card or adapter.toml; nothing is loaded.

    Variables of a foreign network that are not fields over two dimensions (components, atoms) are left out.
    """
    path = find_model(folder)
    if not (path / ADAPTER).is_file():
        return read_card(path / CARD).variables
    config = read_adapter(path)
    return field_variables(make_layout(config, read_grid(config, path)[0]))


def described(folder: str | Path) -> tuple[dict[str, Any], Layout]:
    """Return the card of a model as a dictionary, and the layout of its fields on a grid; nothing is loaded."""
    path = find_model(folder)
    variables = tuple(Variable(v.name, v.dims, {"units": v.units}) for v in variables_of(path))
    if (path / ADAPTER).is_file():
        config = read_adapter(path)
        return config.model_dump(mode="json"), Layout(variables, read_grid(config, path)[0])
    arrays, _ = read_arrays(path / REFERENCE)
    card = read_card(path / CARD)
    coordinates = {name: arrays[name] for name in card.coordinate_names}
    return card.model_dump(mode="json"), Layout(variables, coordinates, leading=card.leading)


def field_variables(layout: Layout) -> tuple[VariableCard, ...]:
    """Return the variables of a layout that are fields on rows and columns or on cells, with the attributes that a card keeps."""
    kept = VariableCard.model_fields
    return tuple(
        VariableCard.model_validate(
            {key: value for key, value in v.attrs.items() if key in kept} | {"name": v.name, "dims": v.dims}
        )
        for v in layout.variables
        if (len([dim for dim in v.dims if dim not in layout.leading]) == 2 or layout.on_cells) and "atom" not in v.dims
    )
