"""The one exception of this room."""

from __future__ import annotations


class StoreError(RuntimeError):
    """A problem with the files of a run, told in words meant for its user."""


class DamagedShard(StoreError):
    """A shard that is truncated, unfinished or otherwise unreadable; its samples have to be drawn again."""
