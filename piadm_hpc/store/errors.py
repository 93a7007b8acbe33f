"""The exceptions of the store."""

from __future__ import annotations


class StoreError(RuntimeError):
    """The files of a run cannot be used; the message is meant for the user."""


class DamagedShard(StoreError):
    """A shard is truncated, unfinished or otherwise unreadable, and its samples have to be drawn again."""


class RetiredShard(StoreError):
    """The file is the stub of a shard that was merged, overwritten or set aside."""
