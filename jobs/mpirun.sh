#!/bin/bash
# Eight ranks without a batch system: two groups of samples, four ranks along each sample's time axis.
set -euo pipefail
export OMP_NUM_THREADS=1
mpiexec -n 8 piadm sample run.toml --out fields --time-ranks 4
