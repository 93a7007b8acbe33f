"""One chain, solved three ways: step by step, by Picard sweeps, and by sweeps preconditioned with a Gaussian reference.

    python docs/tutorial/01_one_chain_three_ways.py

The target is a random vector of 1024 independent entries with heavy tails, whose score is known in closed form. The
chain is the published exponential integrator of the reverse SDE with 64 steps. A *sweep* evaluates the score at all 64
points in one batch, which counts as one sequential call of the network; step by step, 64 calls follow one another.

What one sees: all three ways find the same samples to the tolerance, after 64, 24 and 9 sequential calls (the
sequential NFE). In total the sweeps need more evaluations (the NFE): 540 instead of 64 for each sample, which is why
several ranks should share them.
"""

import torch

import piadm_hpc as piadm
from piadm_hpc import grid, integrators
from piadm_hpc.models.analytic import target_b

process = piadm.OU()
target = target_b(process, d=1024)
points = grid.log_snr(process, 64, horizon=8.0, delta=1e-3)
chain = integrators.piadm(process, points, eta=1.0)

samples = [0, 1, 2, 3]
noise = piadm.Noise(seed=0, size=1024, dtype=torch.float64)
x0 = noise.at([0], samples, stream=0)[0, :, 0]

reference = target.reference()
settings = {
    "step by step": (piadm.Options(solver="sequential"), None),
    "sweeps, identity": (piadm.Options(linear="identity", tol=1e-3), None),
    "sweeps, reference": (piadm.Options(tol=1e-3), reference),
}
ends = {}
print(f"{'solver':18}  sequential calls  score evaluations  largest difference")
for name, (options, known) in settings.items():
    solution = piadm.solve(chain, target, x0, options, noise=noise, samples=samples, reference=known)
    ends[name] = solution.x
    apart = (solution.x - ends["step by step"]).abs().max()
    print(f"{name:18}  {int(solution.rounds.max()):16d}  {int(solution.calls.max()):17d}  {apart:.1e}")
