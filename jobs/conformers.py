"""A campaign of conformers: many small samples of a model of your own, large shards, on a queue with a short limit.

    python jobs/conformers.py --model models/my-molecule

Samples are small, so every rank takes whole samples (one time rank) and many of them at once.
"""

import sys

from piadm_hpc.cli import job

RUN = {
    "model": "models/alanine-dipeptide",
    "samples": 20_000,
    "out": "conformers",
    "compute": {"time_ranks": 1, "model_batch": 256},
    "output": {"batch": 500},
}

if __name__ == "__main__":
    sys.exit(job(RUN, nodes=4, ranks_per_node=16, cpus_per_rank=2, hours=0.5, grace=180))
