"""Moving samples from the journal of a run into its Zarr store, and reading them from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...schema.layout import Layout
from ..conventions import PER_SAMPLE
from ..errors import StoreError
from ..index import INDEX, arrange, reading
from ..merging import leave
from ..shard import Shard, named_ids, open_file, scan
from .publishing import publish, published_problem
from .records import ZARR, Pack, array_options, rows_in_shard, whole_packs, write_pack

Rows = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Fields by variable, and quantities recorded per sample, by name."""


@dataclass(frozen=True, eq=False)
class Packs:
    """The Zarr store of the run in `folder`. One process, which holds the folder, moves samples into it."""

    folder: Path
    layout: Layout
    attributes: Mapping[str, Any]

    def settle(self, number: int) -> None:
        """Drop records that no longer describe their packs, for a run of `number` samples; their samples are in the journal.

        These are records of a last pack that was written again for more samples before a kill, and of one that has to be, whose
        samples the journal has lost: these are drawn again.
        """
        journal = {sample for shard in scan(self.folder)[0] for sample in shard.ids}
        largest: dict[int, Pack] = {}
        for pack in sorted(whole_packs(self.folder)[0], key=lambda each: len(each.ids)):
            first = pack.ids[0]
            if first in largest:
                largest[first].record.path.unlink(missing_ok=True)
            largest[first] = pack
            grows = pack.ids[-1] + 1 < min(number, first + rows_in_shard(self.layout))
            if grows and not journal.issuperset(pack.ids):
                pack.record.path.unlink(missing_ok=True)

    def move(self, number: int, *, last: bool = False) -> None:
        """Pack the complete Zarr shards of a run of `number` samples, and the `last` one once the run has ended."""
        rows = rows_in_shard(self.layout)
        if not last and len(named_ids(self.folder)) < rows:
            return
        packed = {pack.ids[0]: pack for pack in whole_packs(self.folder)[0]}
        journal = scan(self.folder)[0]
        there = {sample for shard in journal for sample in shard.ids}
        for first in range(0, number, rows):
            ids = tuple(range(first, min(number, first + rows)))
            old = packed.get(first)
            if (old is not None and old.ids == ids) or (len(ids) < rows and not last) or not there.issuperset(ids):
                continue
            fields, costs = rows_of_journal(journal, ids, self.layout)
            packed[first] = write_pack(self.folder, self.layout, ids, fields, costs, self.attributes)
            if old is not None:
                old.record.path.unlink(missing_ok=True)
        full = {sample for pack in packed.values() if len(pack.ids) == rows for sample in pack.ids}
        leave(self.folder, [shard for shard in journal if full.issuperset(shard.ids)])

    def finish(self, number: int) -> Path:
        """Pack the rest, and write the metadata over all rows. Raises StoreError when some samples are missing."""
        self.move(number, last=True)
        packs = whole_packs(self.folder)[0]
        rows = sorted(sample for pack in packs for sample in pack.ids)
        if rows != list(range(number)):
            raise StoreError(f"{self.folder} holds {len(rows)} of {number} samples; run the same command again")
        if published_problem(self.folder) != ("", number):
            publish(self.folder, self.layout, [pack.record for pack in packs], self.attributes)
        (self.folder / INDEX).unlink(missing_ok=True)  # of an earlier call in HDF5
        return self.folder / ZARR

    def rows_of(self, pack: Pack, rows: Sequence[int]) -> Rows:
        """Read some rows of a pack. Raises StoreError."""
        import zarr

        fields = {}
        try:
            for variable in self.layout.variables:
                options = array_options(self.layout, variable, rows_in_shard(self.layout))
                del options["config"]
                shape = (pack.ids[-1] + 1, *self.layout.shape(variable))
                memory = zarr.storage.MemoryStore()
                array = zarr.create_array(memory, shape=shape, **options)
                name = pack.files[variable.name][0].removeprefix(f"{variable.name}/")
                content = zarr.core.buffer.cpu.Buffer.from_bytes((self.folder / ZARR / variable.name / name).read_bytes())
                zarr.core.sync.sync(memory.set(name, content))
                fields[variable.name] = np.stack([np.asarray(array[pack.ids[row]]) for row in rows])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise StoreError(
                f"cannot read {pack.record.path.name} of {self.folder} ({error}); run the same command again"
            ) from error
        with open_file(pack.record.path) as file:
            costs = {name: file[name][...][list(rows)] for name in sorted(set(file) & set(PER_SAMPLE))}
        return fields, costs


def rows_of_journal(shards: Sequence[Shard], ids: Sequence[int], layout: Layout) -> Rows:
    """Read samples from shards: fields [S, *shape] by variable, and the quantities recorded per sample. Raises StoreError."""
    names = [variable.name for variable in layout.variables]
    wanted, fields, costs = set(ids), {name: [] for name in names}, {}  # type: ignore[var-annotated]
    for piece in arrange(shards).pieces:
        rows = [row for row in range(piece.start, piece.stop) if piece.shard.ids[row] in wanted]
        if not rows:
            continue
        with reading(piece.shard) as file:
            for name in names:
                fields[name].append(file[name][rows])
            for name in piece.shard.recorded:
                costs.setdefault(name, []).append(file[name][rows])
    together = {name: np.concatenate(found) for name, found in costs.items()}
    return {name: np.concatenate(found) for name, found in fields.items()}, {
        name: array for name, array in together.items() if len(array) == len(ids)
    }
