"""One job for every seed, or for every value of any other key: four runs, two at a time, in folders of their own.

python jobs/many_seeds.py
python jobs/many_seeds.py --array solver.tol=1e-1,1e-2,1e-3
piadm status seeds
"""

import sys

from piadm_hpc.cli import job

RUN = {"model": "ccsm-temperature", "samples": 64, "out": "seeds"}

if __name__ == "__main__":
    sys.exit(job(RUN, array="seed=0-3", parallel=2, nodes=1, ranks_per_node=4, cpus_per_rank=4, hours=1))
