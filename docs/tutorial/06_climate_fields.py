"""New fields of annual mean temperature, drawn by a model that comes with the package, and a figure of them.

    python docs/tutorial/06_climate_fields.py [FOLDER]

The model was trained on an ensemble of 20th-century climate simulations; each sample is one possible year. The model's
card specifies 16 steps, which one core takes one after the other, in seconds.

What one sees: the area means of both members, in kelvin, and a figure with their maps and the difference between them.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import piadm_hpc as piadm

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "climate-fields")
run = piadm.RunConfig(model="ccsm-temperature", samples=2, seed=0, out=str(folder))
print(piadm.plan(run))

samples = piadm.sample(run, overwrite=True)
temperature = samples.TREFHT
area = np.cos(np.deg2rad(temperature.lat))
for member in temperature:
    print(f"member {int(member.realization)}: area mean {float(member.weighted(area).mean()):.2f} K")
print(f"rounds {samples.rounds.values.tolist()}, converged {samples.converged.values.tolist()}")

figure, axes = plt.subplots(1, 3, figsize=(15, 3), constrained_layout=True)
for axis, member in zip(axes, temperature, strict=False):
    member.plot(ax=axis, vmin=220, vmax=310, cmap="turbo", cbar_kwargs={"label": "K"})
    axis.set_title(f"member {int(member.realization)}")
(temperature[1] - temperature[0]).plot(ax=axes[2], cmap="RdBu_r", cbar_kwargs={"label": "K"})
axes[2].set_title("difference")
figure.savefig(folder / "members.png", dpi=100)
print(f"figure: {folder / 'members.png'}")
