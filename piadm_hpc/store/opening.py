"""Taking a folder for a run: proving that it can be written, and that what is in it belongs to the run."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..schema.layout import Layout
from .errors import StoreError
from .files import PARTIAL, sync_folder, write_text
from .index import INDEX
from .settings import RUN_FILE, differences
from .shard import SHARDS, Shard
from .unfinished import clear_drafts

log = logging.getLogger(__name__)


def prepare(folder: Path) -> None:
    """Make the folder and prove, by writing, that it can be written: permissions and quotas do not always tell."""
    probe = folder / SHARDS / f".probe-{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        write_text(probe, "piadm\n")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"cannot write in the folder {folder}: {reason}; choose a folder that you may write and that has room"
        ) from error


def clear(folder: Path) -> None:
    """Delete what an earlier run wrote, index first: an index without shards would read as missing values."""
    for name in (INDEX, RUN_FILE):
        (folder / name).unlink(missing_ok=True)
    clear_drafts(folder)
    shutil.rmtree(folder / SHARDS)
    (folder / SHARDS).mkdir()


def require_same_run(
    folder: Path,
    shards: Sequence[Shard],
    text: str,
    *,
    independent: frozenset[str],
    layout: Layout,
    attributes: Mapping[str, Any],
) -> None:
    """Raise StoreError unless the `shards` in the folder were drawn as the run with the configuration `text` would draw them."""
    try:
        there = (folder / RUN_FILE).read_text(encoding="utf-8")
        found = differences(there, text, independent)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder} holds shards but no readable {RUN_FILE}, so nobody can tell where they come from;"
            " choose another folder, or delete them with overwrite"
        ) from error
    found += _other_contents(shards, layout, str(attributes.get("model_sha256") or ""))
    if found:
        raise StoreError(
            f"{folder} holds {sum(len(shard.ids) for shard in shards)} samples of another configuration:\n  "
            + "\n  ".join(found)
            + "\nset these back, choose another folder, or delete the samples there with overwrite"
        )


def _other_contents(shards: Sequence[Shard], layout: Layout, model: str) -> list[str]:
    """What the shards themselves say: a model file may change under the same name."""
    shapes = {variable.name: layout.shape(variable) for variable in layout.variables}
    found: dict[str, None] = {}
    for shard in shards:
        if model and shard.model_sha256 not in ("", model):
            found[f"model_sha256: {shard.model_sha256!r} there, {model!r} here"] = None
        there = {name: shape[1:] for name, shape in shard.shapes.items()}
        if there != shapes:
            found[f"variables: {there} there, {shapes} here"] = None
    return list(found)


def tidy(folder: Path, damaged: Sequence[Path]) -> None:
    """Delete the leftovers of killed writers, and set damaged shards aside so that their samples are drawn again."""
    for leftover in [*folder.glob(f"*{PARTIAL}"), *(folder / SHARDS).glob(f"*{PARTIAL}")]:
        leftover.unlink(missing_ok=True)
    if damaged:
        # an index over absent shards would read as missing values, and tell nobody
        (folder / INDEX).unlink(missing_ok=True)
    for path in damaged:
        aside = path.with_name(path.name + ".damaged")
        log.warning("%s is damaged and set aside as %s; its samples are drawn again", path, aside.name)
        os.replace(path, aside)
    sync_folder(folder / SHARDS)
