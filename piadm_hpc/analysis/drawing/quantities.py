"""The quantity that a variable measures, by its standard name or its units, and the units in which it is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WATER_NAMES = ("precipitation", "rainfall", "snowfall", "humidity", "moisture", "evaporation", "runoff")
WATER_UNITS = {"mm day-1", "mm d-1", "mm", "mm h-1", "mm hr-1", "mm s-1", "kg m-2 s-1", "kg m-2 day-1", "mm month-1"}
WARM_UNITS = {"k", "kelvin", "degc", "celsius", "degrees_c", "degree_c", "degree_celsius", "degrees_celsius", "deg_c", "°c"}
SHOWN = {
    # a flux of water of 1 kg m-2 is a layer of 1 mm
    ("kg m-2 s-1", "water"): (86400.0, "mm day-1"),
    ("mm s-1", "water"): (86400.0, "mm day-1"),
    ("m s-1", "water"): (86400e3, "mm day-1"),
    ("Pa", "pressure"): (0.01, "hPa"),
    ("kg kg-1", "specific humidity"): (1000.0, "g kg-1"),
    ("1", "specific humidity"): (1000.0, "g kg-1"),
}
"""Units in which the numbers of a quantity are hard to read: the factor to other ones, and these."""


def kind_of_quantity(attrs: Mapping[Any, Any]) -> str:
    """The kind of quantity that selects the colours, by standard name or else units: "water", "temperature" or "other"."""
    standard, units = str(attrs.get("standard_name", "")).lower(), str(attrs.get("units", "")).strip()
    if any(word in standard for word in WATER_NAMES):
        return "water"
    if "temperature" in standard:
        return "temperature"
    if standard:
        return "other"
    return "water" if product(units) in WATER_UNITS else "temperature" if units.lower() in WARM_UNITS else "other"


def shown_units(attrs: Mapping[Any, Any]) -> tuple[float, str]:
    """The factor by which the values of a variable are multiplied for display, and the units that they then have."""
    units = str(attrs.get("units", "1"))
    names = " ".join(str(attrs.get(key, "")) for key in ("standard_name", "long_name")).lower().replace("_", " ")
    for (given, quantity), (factor, other) in SHOWN.items():
        if product(units) == given and (kind_of_quantity(attrs) == quantity or quantity in names):
            return factor, other
    return 1.0, units


def product(units: str) -> str:
    """Units as a product of powers: kg/m2/s, kg m**-2 s**-1 and kg m^-2 s^-1 are all kg m-2 s-1."""
    text = re.sub(r"\*\*|\^", "", units.strip())
    over = [part.strip() for part in text.replace("*", " ").replace(".", " ").split("/")]
    return " ".join([*over[0].split(), *(_inverse(part) for part in over[1:])])


def _inverse(unit: str) -> str:
    found = re.fullmatch(r"([A-Za-z]+)(\d*)", unit)
    return f"{found[1]}-{found[2] or 1}" if found else f"({unit})-1"
