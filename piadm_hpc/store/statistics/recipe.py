"""The recipe of a run's statistics: which sums of the members are kept, over which groups of members, and in which bins."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...schema.layout import Coordinate, Layout

NEEDS: dict[str, tuple[str, ...]] = {
    "mean": ("sum",),
    "std": ("sum", "square"),
    "extremes": ("extremes",),
    "quantiles": ("extremes", "values"),
    "histogram": ("extremes", "values"),
    "exceedance": ("above",),
    "crps": ("distance", "extremes", "values"),
    "rank_histogram": ("ranks",),
}
"""The arrays from which each kind of statistics is computed."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """The statistics of a run.

    Attributes:
        layout: variables and coordinates of the fields that are counted, absolute ones where the climatology is added.
        kinds: what is written at the end, of NEEDS.
        quantiles: their levels.
        thresholds: levels whose exceedance is counted, by variable.
        edges: edges of the bins of every point by variable, [edges, *shape] float32, rising along the first axis.
        exact: number of members up to which their values are kept; beyond it only the number of members in each bin.
        truth: the fields against which members are scored, by variable, [groups or 1, *shape] float32.
        gaps: where a variable has no value in any member, [*shape] bool.
        groups: dimensions along which statistics are separate (conditions, starts and leads); sample i belongs to the group
            i modulo their number.
        added: climatology by variable, [months, *shape]; its row `rows[i % len(rows)]` is added to sample i.
    """

    layout: Layout
    kinds: tuple[str, ...]
    quantiles: tuple[float, ...] = ()
    thresholds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    edges: Mapping[str, np.ndarray] = field(default_factory=dict)
    exact: int = 64
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    gaps: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: Mapping[str, Coordinate] = field(default_factory=dict)
    added: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows: tuple[int, ...] = (0,)

    @cached_property
    def kept(self) -> frozenset[str]:
        """The arrays that are kept of every variable."""
        return frozenset(name for kind in self.kinds for name in NEEDS[kind])

    @property
    def num_groups(self) -> int:
        """The number of groups of members with statistics of their own."""
        return math.prod(len(coordinate.values) for coordinate in self.groups.values())

    def group_of(self, sample: int) -> int:
        """The group in which a sample is counted."""
        return sample % self.num_groups

    def truth_of(self, name: str, group: int) -> np.ndarray | None:
        """The truth for the members of a group, [*shape]; None without one."""
        fields = self.truth.get(name)
        return None if fields is None else fields[group if len(fields) > 1 else 0]

    def counted(self, name: str, ids: Sequence[int], fields: np.ndarray) -> np.ndarray:
        """The fields [S, *shape] of some samples as they are counted: including the climatology, if it is added."""
        if name not in self.added:
            return fields
        months = [self.rows[sample % len(self.rows)] for sample in ids]
        return np.asarray(fields + self.added[name][months], dtype=np.float32)

    @cached_property
    def digest(self) -> str:
        """A digest of the settings that parts must share to be merged: all that determine how a member is counted."""
        total = hashlib.sha256(json.dumps([sorted(self.kept), self.exact, self.num_groups, list(self.rows)]).encode())
        for variable in self.layout.variables:
            shape, levels = self.layout.shape(variable), self.thresholds.get(variable.name, ())
            total.update(json.dumps([variable.name, shape, levels]).encode())
            for arrays in (self.edges, self.truth, self.added):
                if variable.name in arrays:
                    total.update(np.ascontiguousarray(arrays[variable.name]).tobytes())
        return total.hexdigest()

    def bytes_of_group(self, members: int) -> int:
        """Bytes that are kept for one group of so many members."""
        in_bins = np.min_scalar_type(members).itemsize
        total = 0
        for variable in self.layout.variables:
            binned = in_bins * (len(self.edges.get(variable.name, ())) + 1)
            width = {
                "sum": 16, "square": 16, "extremes": 8, "distance": 16, "ranks": 8,
                "above": 4 * len(self.thresholds.get(variable.name, ())),
                "values": 4 * members if members <= self.exact else binned,
            }  # fmt: skip
            total += sum(width[name] for name in self.kept) * math.prod(self.layout.shape(variable))
        return total

    def bytes_in_memory(self, members: int, batch: int) -> int:
        """The largest number of bytes of a rank beside the members of a batch: three groups' sums, the batch, bins and truth."""
        arrays = [*self.edges.values(), *self.truth.values(), *self.added.values()]
        member = sum(math.prod(self.layout.shape(variable)) for variable in self.layout.variables)
        return 3 * self.bytes_of_group(members) + sum(array.nbytes for array in arrays) + (5 * batch + 64) * member
