"""An ensemble of global fields on two nodes with four GPUs each: one rank per GPU, four hours at a time until it is done.

    python jobs/climate_ensemble.py                 submit
    python jobs/climate_ensemble.py --print         the batch script instead
    python jobs/climate_ensemble.py --cluster local --nodes 1 --samples 8      the same here

Any option of `piadm submit` may follow; it takes precedence over the numbers below.
"""

import sys

from piadm_hpc.cli import job

RUN = {
    "model": "ccsm-temperature",
    "samples": 256,
    "seed": 0,
    "out": "climate-ensemble",
    "output": {"batch": 8},
}

if __name__ == "__main__":
    sys.exit(job(RUN, nodes=2, gpus_per_node=4, cpus_per_rank=8, hours=4, grace=300))
