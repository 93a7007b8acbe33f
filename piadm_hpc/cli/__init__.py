"""The command line, one command a file: `add` registers its options and what it runs, which returns an exit code."""

from .main import job

__all__ = ["job"]
