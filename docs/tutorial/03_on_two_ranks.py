"""The chain of the first page, on several MPI ranks that share its points in time.

    mpiexec -n 2 python docs/tutorial/03_on_two_ranks.py
    mpiexec -n 4 python docs/tutorial/03_on_two_ranks.py 2      # four ranks as two groups of two

Without a launcher the same script runs on a single rank and loads no MPI. `rank_grid(time)` arranges the ranks in
groups of `time` ranks: the groups draw different samples, and the ranks of a group share the time axis of each sample.

What one sees: the samples of every group, and how many score evaluations each rank made. The samples do not depend on
the number of ranks: compare the last columns of several runs.
"""

import sys

import torch

import piadm_hpc as piadm
from piadm_hpc import grid, integrators
from piadm_hpc.models.analytic import target_b

ranks = piadm.rank_grid(int(sys.argv[1]) if len(sys.argv) > 1 else None)

process = piadm.OU()
target = target_b(process, d=1024)
chain = integrators.piadm(process, grid.log_snr(process, 64, horizon=8.0, delta=1e-3))
noise = piadm.Noise(seed=0, size=1024, dtype=torch.float64)

samples = [0, 1, 2, 3][ranks.group :: ranks.num_groups]
x0 = noise.at([0], samples, stream=0)[0, :, 0]
rows = 0


def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    global rows
    rows += len(x)
    return target(x, t)


solution = piadm.solve(
    chain, score, x0, piadm.Options(tol=1e-8), noise=noise, samples=samples, reference=target.reference(), comm=ranks.time
)
made = ranks.world.gather_objects((ranks.group, samples, rows, solution.x.norm(dim=1).tolist()))
if ranks.root:
    print(f"{ranks.num_groups} group(s) of {ranks.time.size} rank(s); {int(solution.rounds.max())} sequential calls")
    for rank, (group, ids, evaluations, norms) in enumerate(made):
        values = "  ".join(f"|x_{i}| = {norm:.7f}" for i, norm in zip(ids, norms, strict=True))
        print(f"rank {rank} in group {group}: {evaluations:5d} evaluations   {values}")
