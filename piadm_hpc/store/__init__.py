"""Samples on disk: whole shards, an index over them, and the words of the CF conventions."""

from .check import Report, check
from .conventions import DIALECTS, PER_SAMPLE, PerSample, cell_weight, latitude, longitude, realization
from .errors import StoreError
from .folder import Store
from .index import INDEX
from .probe import probe
from .provenance import global_attributes
from .reading import open_run
from .settings import RUN_FILE, to_toml
from .shard import drawn_samples

__all__ = [
    "DIALECTS",
    "INDEX",
    "PER_SAMPLE",
    "RUN_FILE",
    "PerSample",
    "Report",
    "Store",
    "StoreError",
    "cell_weight",
    "check",
    "drawn_samples",
    "global_attributes",
    "latitude",
    "longitude",
    "open_run",
    "probe",
    "realization",
    "to_toml",
]
