"""Joining the shards of a run: an index over them, or one ordinary file of all samples."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..schema.layout import Layout
from .conformers import with_topology
from .errors import StoreError
from .files import most_open_files
from .index import INDEX, Arrangement, arrange, is_current, write_index
from .merging import merge_into
from .shard import UNREADABLE, open_file, scan

log = logging.getLogger(__name__)
MAX_SHARDS = 500


def join_shards(
    folder: Path,
    layout: Layout,
    attributes: Mapping[str, Any],
    copied: Callable[[Path, Arrangement], Path],
    *,
    copy: bool = False,
    to: str | os.PathLike[str] | None = None,
    max_shards: int = MAX_SHARDS,
    keep_current: bool = False,
) -> Path:
    """Write `samples.h5` over all whole shards, or with `copy` one file at `to`, which `copied` writes: see Store.join."""
    shards, damaged = scan(folder)
    for path in damaged:
        log.warning("leaving out %s, which is damaged; run the same command again to draw its samples once more", path)
    if not shards:
        raise StoreError(f"{folder} holds no whole shard, so there is nothing to join; run the sampler first")
    if to is not None and not copy:
        raise StoreError(f"an index must lie beside its shards, not at {to}; ask for a copy to make a file elsewhere")
    if copy:
        target = Path(to).absolute() if to is not None else folder / INDEX
        _require_samples(target)
        return with_topology(copied(target, arrange(shards)), layout)
    limit = max(1, min(max_shards, most_open_files()))
    if len(arrange(shards).shards) > limit:
        # well below the limit, so that a growing run does not come here at every join
        shards = merge_into(folder, shards, max(1, limit // 4), copied)
    arrangement, path = arrange(shards), folder / INDEX
    if not (keep_current and is_current(folder, arrangement)):
        path = write_index(folder, arrangement, layout=layout, attributes=attributes)
    return with_topology(path, layout)


def _require_samples(target: Path) -> None:
    """Raise StoreError if a copy would replace anything else than samples."""
    if not target.exists():
        return
    with suppress(*UNREADABLE), open_file(target) as file:
        if "piadm_format" in file.attrs:
            return
    raise StoreError(f"{target} is there already and holds no samples; remove it, or give another file")
