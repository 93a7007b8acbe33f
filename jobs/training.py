"""A training on one node, in jobs of eight hours until it is done; each continues from the last checkpoint.

piadm init train > train.toml
python jobs/training.py
"""

import sys

from piadm_hpc.cli import job

if __name__ == "__main__":
    sys.exit(job("train.toml", cpus_per_rank=16, gpus_per_node=1, hours=8, grace=120))
