"""Keys of files written by version 0.1.0, under their present names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# sections that 0.1.0 did not have, with the values that leave a run as it was
LATER: Mapping[str, Mapping[str, Any]] = {
    "condition": {"guidance": 1.0, "count": 1, "sha256": ""},
    "density": {"enabled": False, "traces": "auto"},
    "domain": {"periodic": True},
    "rollout": {"pipelined": "auto", "threshold": 0.3, "months": 1},
}


def upgraded_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run of 0.1.0 with the present keys; any other configuration unchanged.

    Version 0.1.0 wrote every key of a run, so its files are recognised by `churn` and `eta` side by side: one key now, `eta`,
    which was `eta` for `ddim` and `churn` for the rest; its `gaussian-ab2` was never random. The integrator "auto" of a run with
    noise was `gaussian`.
    """
    chain = values.get("chain")
    if not isinstance(chain, Mapping) or not {"churn", "eta"} <= chain.keys():
        return dict(values)
    rest = {key: value for key, value in chain.items() if key not in ("churn", "cond")}
    integrator = chain.get("integrator")
    eta = chain["eta"] if integrator == "ddim" else 0.0 if integrator == "gaussian-ab2" else chain["churn"]
    if integrator == "auto" and eta not in ("auto", 0):
        rest["integrator"] = "gaussian"
    solver = {"alternate": False, "certify": True, **values.get("solver", {})}
    return {**LATER, **values, "chain": {**rest, "eta": eta, "score_time": chain.get("cond", "now")}, "solver": solver}


def upgraded_card(values: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a model with the present keys: `sampling.churn` is `eta`, `molecule.frame` is `alignment`."""
    card = dict(values)
    for section, old, new in (("sampling", "churn", "eta"), ("molecule", "frame", "alignment")):
        part = card.get(section)
        if isinstance(part, Mapping) and old in part:
            card[section] = {new: part[old], **{key: value for key, value in part.items() if key != old}}
    return card
