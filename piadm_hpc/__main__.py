"""`python -m piadm_hpc` is `piadm`, for places where scripts are not on the path."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
