"""The statistics of a run's folder during the run: which members are counted, and how further members are added.

A writer adds each batch that it has finished to the last part that it wrote itself, under a new name, and then deletes that
part: one file a writer, and no two writers touch the same file. Only the process that holds the folder merges parts of others,
before the ranks begin and after they have ended. Whether a member is counted follows from the names of the parts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from ..shard import Shard, named_ids, read_shard, scan
from .output import STATISTICS, is_current, write_statistics
from .packing import write_recipe
from .parts import PLACE, costs_of, joined, merge, recipe_of, settled, write_part
from .recipe import Recipe
from .state import State, state_of

Source = tuple[tuple[int, ...], Callable[[list[int]], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]]
"""The ids of a file of stored samples, and a function that reads the fields and costs of some of its rows."""

ROWS = 16  # stored members that are read and counted at once


@dataclass(frozen=True, eq=False)
class Tally:
    """The counted members of the run in `folder`; `attributes` name the run in every part, `own` are this process's parts."""

    folder: Path
    recipe: Recipe
    attributes: Mapping[str, Any]
    own: list[Shard] = field(default_factory=list)

    def counted(self) -> set[int]:
        """The ids that are counted, by the names of the parts."""
        return named_ids(self.folder, PLACE)

    def add(self, ids: Sequence[int], fields: Mapping[str, np.ndarray], per_sample: Mapping[str, np.ndarray]) -> None:
        """Count finished members that are not counted yet, in a part that is complete when this returns.

        `fields` [S, *shape] holds every variable of the layout. Raises StoreError.
        """
        counted = self.counted()
        rows = [row for row, sample in enumerate(ids) if sample not in counted]
        if not rows:
            return
        recipe, new = self.recipe, [ids[row] for row in rows]
        groups = np.array([recipe.group_of(sample) for sample in new])
        shown = {
            variable.name: recipe.counted(variable.name, new, fields[variable.name][rows]) for variable in recipe.layout.variables
        }
        before: list[Shard] = []
        size = len(set(groups.tolist()))
        # a part of few groups is not merged into one of many at once, which would write all of these again for every batch
        while self.own and _num_groups(recipe, self.own[-1].ids) <= 2 * size:
            before.append(self.own.pop())
            size = _num_groups(recipe, [sample for part in before for sample in part.ids] + new)
        costs = {name: array[rows] for name, array in per_sample.items()}
        all_ids, all_costs = _with_costs(before, new, costs)

        def state(group: int) -> State:
            here = np.flatnonzero(groups == group)
            new_ones = [state_of(recipe, group, {name: array[here] for name, array in shown.items()})] if len(here) else []
            return joined(recipe, before, group, *new_ones)

        path = write_part(self.folder, recipe, all_ids, all_costs, self.attributes, state)
        for part in before:
            part.path.unlink(missing_ok=True)
        self.own.append(read_shard(path))

    def add_stored(self, sources: Sequence[Source]) -> None:
        """Count the members of files of stored samples that are not counted yet. Raises StoreError."""
        counted = self.counted()
        for ids, read in sources:
            rows = [row for row, sample in enumerate(ids) if sample not in counted]
            for start in range(0, len(rows), ROWS):
                few = rows[start : start + ROWS]
                self.add([ids[row] for row in few], *read(few))
            counted.update(ids)

    def parts(self) -> list[Shard]:
        """The whole parts of the folder that share no member, for the process that holds the folder. Raises StoreError."""
        return settled(scan(self.folder, PLACE)[0])

    def open(self, stored: Set[int]) -> None:
        """Prepare the parts of the folder for continuing, in the process that holds it: none is counted with another recipe.

        Parts with another recipe whose members are all `stored` are dropped, and their members counted anew. Raises StoreError
        otherwise.
        """
        for part in self.parts():
            if recipe_of(part.path) == self.recipe.digest:
                continue
            if not stored >= set(part.ids):
                raise StoreError(
                    f"{self.folder} holds statistics of {len(part.ids)} samples that were counted with other settings of"
                    " [statistics] (kinds, thresholds, bins, exact, truth, absolute), and the samples themselves are not stored;"
                    " set these back, choose another folder, or start over with overwrite"
                )
            part.path.unlink(missing_ok=True)
        write_recipe(self.folder, self.recipe)

    def finish(self, sources: Sequence[Source]) -> Path:
        """Count stored samples that no part has counted, merge all parts, and write statistics.h5.

        A current file is left unchanged. Called by the process that holds the folder, when no other process writes. Raises
        StoreError.
        """
        self.parts()
        self.add_stored(sources)
        parts = self.parts()
        if not parts:
            raise StoreError(f"{self.folder} holds no statistics; run the sampler first")
        part = parts[0] if len(parts) == 1 else merge(self.folder, self.recipe, parts, self.attributes)
        self.own.clear()
        if is_current(self.folder, self.recipe, part):
            return self.folder / STATISTICS
        return write_statistics(self.folder, self.recipe, part, self.attributes)


def _num_groups(recipe: Recipe, ids: Sequence[int]) -> int:
    return len({recipe.group_of(sample) for sample in ids})


def _with_costs(
    parts: Sequence[Shard], ids: Sequence[int], costs: Mapping[str, np.ndarray]
) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """All ids, rising, of parts and of new members, and the quantities recorded for them."""
    old_ids, old = costs_of(parts)
    order = np.argsort([*old_ids, *ids], kind="stable")
    names = [name for name in costs if not old_ids or name in old]
    together = {name: np.concatenate([old[name], costs[name]]) if old_ids else np.asarray(costs[name]) for name in names}
    return tuple(sorted([*old_ids, *ids])), {name: array[order] for name, array in together.items()}
