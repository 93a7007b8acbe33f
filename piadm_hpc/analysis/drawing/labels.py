"""Units and degrees in conventional notation."""

from __future__ import annotations

import re

from .style import literal

SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
CELSIUS = {"degc", "degree_c", "degrees_c", "deg_c", "celsius", "degree_celsius", "degrees_celsius", "degreec", "degreesc"}
NONE = {"", "1", "dimensionless", "none"}


def readable(units: str) -> str:
    """Units as they are printed: `kg m-2 s-1` becomes kg m⁻² s⁻¹, `degC` °C; empty for a number without dimension."""
    if units.strip().lower() in NONE:
        return ""
    if units.strip().lower() in CELSIUS:
        return "°C"
    if not re.search(r"[-^*]|\d", units):
        return units
    text = re.sub(r"\*\*|\^", "", units)
    return re.sub(r"(?<=[A-Za-z°%)])-?\d+", lambda power: power[0].translate(SUPERSCRIPTS), text)


def bracketed(units: str) -> str:
    """` [K]`, to be appended to a name in a figure, or nothing for a number without dimension."""
    shown = literal(readable(units))
    return f" [{shown}]" if shown else ""


def squared(units: str) -> str:
    """The units of a power, as shown in a figure; 1 for a number without dimension."""
    shown = literal(readable(units))
    if not shown:
        return "1"
    return f"{shown}²" if shown.isalpha() or shown == "°C" else f"({shown})²"


def degrees(value: float, positive: str, negative: str) -> str:
    """An angle as on maps: 90°E, 30°S, 0°."""
    plain = value in (0, -180, 180)
    return f"{abs(value):g}°" + ("" if plain else positive if value > 0 else negative)


def meridian(longitude: float) -> str:
    """A longitude as on maps, from any range: 270 is 90°W."""
    return degrees(round((longitude + 180) % 360 - 180, 6), "E", "W")


def parallel(latitude: float) -> str:
    """A latitude as on maps."""
    return degrees(round(latitude, 6), "N", "S")
