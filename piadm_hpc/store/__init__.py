"""Samples on disk: shards that are written whole, an index over them, and the names and attributes of the CF conventions."""

from .conventions import DIALECTS, PER_SAMPLE, PerSample, cell_weight, latitude, longitude, realization
from .errors import StoreError
from .folder import Store
from .index import INDEX
from .integrity import Report, check
from .lock import holder_of
from .probe import probe
from .provenance import global_attributes
from .reading import open_run
from .requested import in_words, requested
from .settings import RUN_FILE, to_toml
from .shard import drawn_samples
from .unfinished import clear_drafts, discard_draft, find_drafts, fingerprint, read_draft, write_draft

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
    "clear_drafts",
    "discard_draft",
    "drawn_samples",
    "find_drafts",
    "fingerprint",
    "global_attributes",
    "holder_of",
    "in_words",
    "latitude",
    "longitude",
    "open_run",
    "probe",
    "read_draft",
    "realization",
    "requested",
    "to_toml",
    "write_draft",
]
