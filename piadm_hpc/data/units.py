"""Converting fields between units, with the unit registry of cf-xarray and pint."""

from __future__ import annotations

from typing import Any

import numpy as np

NONE = ("", "1")
"""The units with which files mark dimensionless numbers."""


def units_of(attrs: Any) -> str | None:
    """The units among a variable's attributes, or None if it has none."""
    return str(attrs["units"]).strip() if "units" in attrs else None


def same_units(given: str, wanted: str) -> bool:
    """Whether two texts are the same units without conversion."""
    return given == wanted or {given, wanted} <= set(NONE)


def converted(values: np.ndarray, given: str, wanted: str, *, difference: bool = False) -> np.ndarray:
    """Values in the units `wanted`, float32; for a `difference`, such as an anomaly, only the factor counts (1 degC is 1 K).

    Raises ValueError, naming both units, where one of them is unknown or they measure different things.
    """
    if same_units(given, wanted):
        return values
    try:
        from cf_xarray.units import units as registry
    except ImportError:
        raise ValueError(f"is in {given!r}, not in {wanted!r}; conversion needs pint: pip install 'piadm_hpc[climate]'") from None
    try:
        old, new = (_parsed(registry, text) for text in (given, wanted))
        # pint measures with exact offsets; a straight line through two points is all a conversion can be
        zero, one = (float(registry.Quantity(value, old).to(new).magnitude) for value in (0.0, 1.0))
    except Exception:  # the library has a separate error for every way in which text is not a unit
        raise ValueError(f"is in {given!r}, which cannot be converted to {wanted!r}; convert the file first") from None
    return np.asarray(values * (one - zero) + (0.0 if difference else zero), dtype=np.float32)


def are_known(text: str) -> bool:
    """Whether a text names units, as far as the unit registry is installed."""
    try:
        from cf_xarray.units import units as registry
    except ImportError:
        return True
    try:
        return _parsed(registry, text) is not None
    except Exception:  # the library has a separate error for every way in which text is not a unit
        return False


def _parsed(registry: Any, text: str) -> Any:
    """The unit that a text names; names such as Kelvin are also found in small letters."""
    from pint import UndefinedUnitError

    try:
        return registry.parse_units(text)
    except UndefinedUnitError:
        return registry.parse_units(text.lower())
