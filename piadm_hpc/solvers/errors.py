"""The exception for a score that fails. This file does not import torch, so the command line can catch the exception early."""

from __future__ import annotations


class ScoreError(RuntimeError):
    """The score failed or returned numbers that are not finite; the message names sample, time and rank."""
