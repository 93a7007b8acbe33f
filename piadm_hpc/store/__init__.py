"""Samples on disk: whole shards, an index over them, and the words of the CF conventions."""

from .check import Report, check
from .conventions import DIALECTS, PER_SAMPLE, PerSample, cell_weight, latitude, longitude, realization
from .errors import StoreError
from .folder import Store
from .probe import probe
from .provenance import global_attributes
from .reading import open_run

__all__ = [
    "DIALECTS",
    "PER_SAMPLE",
    "PerSample",
    "Report",
    "Store",
    "StoreError",
    "cell_weight",
    "check",
    "global_attributes",
    "latitude",
    "longitude",
    "open_run",
    "probe",
    "realization",
]
