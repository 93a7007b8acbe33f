"""The exception of a score that fails; in a file without torch, so that the command line can name it before torch is loaded."""

from __future__ import annotations


class ScoreError(RuntimeError):
    """The score failed or returned numbers that are not finite; the message names sample, time and rank."""
