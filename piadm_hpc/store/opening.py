"""Opening a folder for a run: tests that it can be written, and that its files belong to the run."""

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
from .packs.records import PLACE as PACKED
from .packs.records import ZARR
from .requested import REQUESTED
from .retired import DAMAGED, OVERWRITTEN, indexed_shapes, listed, reason_of, remove_old, retire
from .settings import RUN_FILE, as_json, differences, differences_of_json
from .shard import SHARDS, Shard, read_shard, scan
from .statistics.output import STATISTICS
from .statistics.parts import PLACE
from .unfinished import clear_drafts

log = logging.getLogger(__name__)
SHOWN = 5


def prepare(folder: Path) -> None:
    """Create the folder and test, by writing, that it can be written: permissions and quotas do not always tell."""
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
    """Delete the files of an earlier run.

    Shards that an index lists leave stubs: readers who have that index open get errors, not missing values or those of the new
    run.
    """
    for name in (RUN_FILE, REQUESTED):
        (folder / name).unlink(missing_ok=True)
    clear_drafts(folder)
    known = listed(folder / INDEX)
    for shard in scan(folder)[0]:
        if shard.name in known:
            retire(shard.path, shard.shapes, OVERWRITTEN)
    (folder / INDEX).unlink(missing_ok=True)
    (folder / STATISTICS).unlink(missing_ok=True)
    for place in (PLACE, PACKED, ZARR):
        shutil.rmtree(folder / place, ignore_errors=True)
    for path in (folder / SHARDS).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not reason_of(path):
            path.unlink()


def require_same_run(
    folder: Path,
    shards: Sequence[Shard],
    config: Mapping[str, Any],
    text: str,
    *,
    independent: frozenset[str],
    layout: Layout,
    attributes: Mapping[str, Any],
) -> None:
    """Raise StoreError unless the `shards` in the folder were drawn as the run with this `config` would draw them.

    `text` is the configuration as TOML. The folder's run.toml is compared with it, and so is the configuration recorded in every
    shard, because a file may have been copied from another folder.
    """
    try:
        there = (folder / RUN_FILE).read_text(encoding="utf-8")
        found = differences(there, text, independent)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder} holds shards but no readable {RUN_FILE}, so nobody can tell where they come from;"
            " choose another folder, or delete them with overwrite (--overwrite)"
        ) from error
    found += _other_contents(shards, layout, str(attributes.get("model_sha256") or ""))
    if found:
        raise StoreError(
            f"{folder} holds {sum(len(shard.ids) for shard in shards)} samples of another configuration:\n  "
            + "\n  ".join(found)
            + "\nset these back, choose another folder, or delete the samples there with overwrite (--overwrite)"
        )
    require_no_strangers(folder, shards, as_json(config), independent)


def require_no_strangers(folder: Path, shards: Sequence[Shard], config: str, independent: frozenset[str]) -> None:
    """Raise StoreError, naming them, when shards were drawn with another configuration than `config`, given as JSON."""
    found = strangers(shards, config, independent)
    if found:
        raise StoreError(
            f"{folder} holds shards of another run:\n  "
            + "\n  ".join(found)
            + "\nmove them elsewhere or delete them, then run the same command again, which draws their samples for this run"
        )


def strangers(shards: Sequence[Shard], config: str, independent: frozenset[str]) -> list[str]:
    """One line for each shard that was drawn with another configuration than `config`, or for another model than the rest.

    A shard that does not record its configuration is judged by its model alone.
    """
    by_text: dict[str, list[str]] = {}
    models = [shard.model_sha256 for shard in shards if shard.model_sha256]
    usual = max(set(models), key=models.count) if models else ""
    lines = []
    for shard in shards:
        if shard.config not in by_text:
            by_text[shard.config] = differences_of_json(shard.config, config, independent)
        found = list(by_text[shard.config])
        if shard.model_sha256 not in ("", usual):
            found.append(f"model_sha256: {shard.model_sha256!r} there, {usual!r} in the other shards")
        if found:
            lines.append(f"{shard.path.parent.name}/{shard.name}: {'; '.join(found)}")
    return lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])


def _other_contents(shards: Sequence[Shard], layout: Layout, model: str) -> list[str]:
    """Compare the layout and the model with those recorded in the shards: a model may change under the same name."""
    shapes = {variable.name: layout.shape(variable) for variable in layout.variables}
    found: dict[str, None] = {}
    for shard in shards:
        if model and shard.model_sha256 not in ("", model):
            found[f"model_sha256: {shard.model_sha256!r} there, {model!r} here"] = None
        there = {name: shape[1:] for name, shape in shard.shapes.items()}
        if shard.shapes and there != shapes:  # a part of statistics has no fields
            found[f"variables: {there} there, {shapes} here"] = None
    return list(found)


def indexed_ids(folder: Path, config: str, independent: frozenset[str]) -> tuple[int, ...]:
    """The ids that the folder's index lists, when it is readable and of the same configuration, given as JSON."""
    try:
        index = read_shard(folder / INDEX, index=True)
    except StoreError:
        return ()
    return () if differences_of_json(index.config, config, independent) else index.ids


def tidy(folder: Path, damaged: Sequence[Path]) -> None:
    """Delete the leftovers of killed writers, and set damaged shards aside so that their samples are drawn again."""
    for leftover in (path for place in (".", SHARDS, PLACE, PACKED) for path in (folder / place).glob(f"*{PARTIAL}")):
        leftover.unlink(missing_ok=True)
    for leftover in (folder / ZARR).glob(f"*{PARTIAL}"):
        shutil.rmtree(leftover, ignore_errors=True)
    remove_old((folder / SHARDS).glob("samples_*.h5"))
    if damaged:
        set_aside(folder, damaged)
    sync_folder(folder / SHARDS)


def set_aside(folder: Path, damaged: Sequence[Path]) -> None:
    """Rename damaged shards; those that the index lists leave stubs, so that no reader gets missing values through it."""
    known = listed(folder / INDEX)
    for path in damaged:
        aside = path.with_name(path.name + ".damaged")
        log.warning("%s is damaged and set aside as %s; its samples are drawn again", path, aside.name)
        os.replace(path, aside)
        if path.parent.name == SHARDS and path.name in known:
            retire(path, indexed_shapes(folder / INDEX, path.name), DAMAGED)
