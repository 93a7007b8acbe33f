"""Coefficients, score and noise of your own, solved by `solve`, with points that must stay zero.

    python docs/tutorial/04_own_tables.py

A chain consists of three tables, x[j+1] = P[j] x[j] + Q[j] s(x[j], t[j]) + N[j] xi[j]. Here they are those of an
ancestral sampler, written out by hand from a schedule of betas. Each datum is one of two patterns on a small map, part
of which is land. The score is an ordinary function of states and times; the caller chooses what a time means.

What one sees: both solvers draw the same members, with the same patterns, the sweeps in far fewer sequential calls, and
land is exactly zero in every state that the score receives.
"""

import torch

import piadm_hpc as piadm

# the tables: 50 steps, from j = 50 (noise) down to 0
betas = torch.linspace(0.001, 0.25, 50, dtype=torch.float64)
kept = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])
down = betas.flip(0)
last = torch.arange(50) == 49
chain = piadm.Chain(
    P=1 / torch.sqrt(1 - down),
    Q=down / torch.sqrt(1 - down),
    N=torch.where(last, 0.0, torch.sqrt(down)),
    t=torch.arange(50, -1, -1),
    alpha=torch.sqrt(kept).flip(0),
    sigma=torch.sqrt(1 - kept).flip(0),
)

lat, lon = torch.meshgrid(torch.linspace(-1.5, 1.5, 12), torch.linspace(0, 6.2, 24), indexing="ij")
sea = ((lon - 3) ** 2 + 4 * lat**2 > 2).double()
pattern = (torch.cos(lat) * torch.sin(2 * lon)).double() * sea


def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Score of the patterns +p and -p with equal weights, each plus independent noise of variance 0.01."""
    assert bool((x * (1 - sea) == 0).all())
    alpha = torch.sqrt(kept[t.long()])[:, None, None]
    variance = 1 - 0.99 * alpha**2
    lean = torch.tanh((alpha * x * pattern / variance).sum((1, 2)))[:, None, None]
    return (alpha * lean * pattern - x) / variance


generator = torch.Generator().manual_seed(3)
x0 = torch.randn(6, 12, 24, generator=generator, dtype=torch.float64)
xi = torch.randn(50, 6, 12, 24, generator=generator, dtype=torch.float64)
for solver in ("sequential", "picard"):
    options = piadm.Options(solver=solver, tol=1e-3, model_batch=100)
    found = piadm.solve(chain, score, x0, options, noise=xi, project=lambda x: x * sea)
    signs = "".join("+" if overlap > 0 else "-" for overlap in (found.x * pattern).sum((1, 2)))
    land = float(found.x[:, sea == 0].abs().max())
    print(f"{solver:10}  patterns {signs}  sequential calls {int(found.rounds.max()):2d}  largest on land {land}")
