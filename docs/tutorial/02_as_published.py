"""PIADM as published: the reverse SDE, and the probability-flow ODE with its Langevin corrector.

    python docs/tutorial/02_as_published.py

The target is a mixture of two Gaussians in the plane, with three tenths of its mass on the left. The grid has eight
blocks of unit forward time; the steps of the last block shrink. Every block is solved by a fixed number of Picard sweeps.

What one sees: moments of 400 samples beside those of the target. Rounds are sequential score calls (the sequential
NFE): a block of 16 steps is exact after 16 sweeps, so the SDE takes 7 x 16 + 17 rounds, where step by step it would
take 226. The corrector follows every block, and its rounds are included.
"""

import torch

import piadm_hpc as piadm
from piadm_hpc import grid, integrators
from piadm_hpc.integrators.corrector import critical_corrector
from piadm_hpc.models.analytic import GaussianMixture

process = piadm.OU()
target = GaussianMixture(
    process,
    means=torch.tensor([[-1.5, 0.0], [1.5, 0.0]], dtype=torch.float64),
    variances=torch.tensor([[0.1, 0.4], [0.1, 0.4]], dtype=torch.float64),
    weights=torch.tensor([0.3, 0.7]),
)
points = grid.piadm(process, horizon=8.0, delta=1e-3, step=0.0625, block=1.0)
kinetic = critical_corrector(process, target.reference(), friction=None, length=None, num_steps=8, num_blocks=1)

samples = list(range(400))
noise = piadm.Noise(seed=0, size=2, dtype=torch.float64)
x0 = noise.at([0], samples, stream=0)[0, :, 0]
variants = {
    "PIADM-SDE": {"eta": 1.0, "sweeps": 17, "corrector": None},
    "PIADM-ODE": {"eta": 0.0, "sweeps": 10, "corrector": None},
    "PIADM-ODE, corrected": {"eta": 0.0, "sweeps": 10, "corrector": kinetic},
}


def line(name: str, x: torch.Tensor, rounds: object) -> str:
    left, mean, spread = (x[:, 0] < 0).double().mean(), x.mean(0).tolist(), x.std(0).tolist()
    return f"{name:22}  {rounds!s:>6}  {left:5.2f}  {mean[0]:6.2f} {mean[1]:6.2f}  {spread[0]:5.2f} {spread[1]:5.2f}"


print(f"{'':22}  rounds   left      mean        deviation")
print(line("the target", target.sample(100_000), ""))
for name, (eta, sweeps, corrector) in {name: tuple(v.values()) for name, v in variants.items()}.items():
    chain = integrators.piadm(process, points, eta=eta)
    fixed = piadm.Options(tol=None, sweeps=sweeps, linear="process", start="constant", corrector=corrector)
    solution = piadm.solve(chain, target, x0, fixed, noise=noise, samples=samples)
    print(line(name, solution.x, int(solution.rounds.max())))
