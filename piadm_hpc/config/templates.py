"""Commented configurations to start from, printed by `piadm init`."""

from __future__ import annotations

CLIMATE = """\
# New global temperature fields, from a model that ships with the package.
#   piadm sample run.toml                        one process
#   mpiexec -n 4 piadm sample run.toml           four ranks
model = "ccsm-temperature"   # a shipped model, or a folder written by `piadm train`
samples = 8
seed = 0
out = "run"

[chain]
integrator = "auto"          # gaussian-ab2 for the SDE, collocation for the ODE; `piadm integrators` lists the others
eta = 1.0                    # 1: reverse SDE, 0: probability-flow ODE

[grid]
kind = "log-snr"             # or karras; or piadm, the published grid (see `piadm init paper-sde`)
steps = "auto"               # what the model recommends, 16 here; collocation takes 8 points for every digit of the tolerance
blocks = "auto"              # one block, if memory allows: blocks save memory, not rounds

[solver]
kind = "auto"                # steps, sweeps or a window, whatever is fastest here; the samples are the same within tol
tol = 1e-2                   # bound on a sample's error, in units of the data's standard deviation
linear = "auto"              # preconditioner, the part of a step that sweeps treat exactly: reference, process or identity

[compute]
time_ranks = "auto"          # ranks that share one sample's time axis
model_batch = "auto"         # largest number of rows of one network call
precision = "float32"

[output]
batch = "auto"               # samples solved and stored together
compression = "zlib"
"""

PAPER_SDE = """\
# PIADM-SDE as published (Chen, Ren, Ying, Rotskoff 2024): blocks of length one, the exponential integrator, shrinking
# steps in the last block, and Picard sweeps that treat the process without the score exactly.
model = "ccsm-temperature"
samples = 4                  # of about 4,000 calls of the network each
seed = 0
out = "paper-sde"

[chain]
integrator = "piadm"
eta = 1.0

[grid]
kind = "piadm"
step = 0.0625                # forward time; at most this fraction of the remaining time in the last block
block = 1.0

[solver]
linear = "process"
start = "constant"
sweeps = 17                  # the fixed depth K
fixed_depth = true
"""

PAPER_ODE = """\
# PIADM-ODE as published: the probability-flow predictor, followed after every block by the parallel underdamped
# Langevin corrector at the block's last noise level.
model = "ccsm-temperature"
samples = 4
seed = 0
out = "paper-ode"

[chain]
integrator = "piadm"
eta = 0.0

[grid]
kind = "piadm"
step = 0.0625
block = 1.0

[solver]
linear = "process"
start = "constant"
sweeps = 10
fixed_depth = true

[corrector]
enabled = true
friction = "auto"            # critical damping of the stiffest mode
length = "auto"
steps = 8
"""

TRAIN = """\
# A model of your own fields, from any NetCDF, HDF5 or Zarr files that xarray reads.
#   piadm train train.toml
name = "my-fields"
title = "What the fields are"
output = "my-fields"         # the model folder to write; `piadm sample --model my-fields` samples from it
seed = 0
# network = "none"           # the Gaussian reference alone, without the section [network] below

[data]
files = ["data/*.nc"]        # several files are joined, as members or as years
variables = ["TREFHT"]
sample_dims = ["time"]
spatial_dims = ["lat", "lon"]  # ["cell"] for HEALPix and other cells
# levels = { plev = [850, 500] }  # keep these values of a further dimension in every sample
# sequence = 12              # twelve consecutive times as one sample; stride = 1 lets sequences overlap
# rename = { tas = "TREFHT" }  # names in the files = names used here and in the samples
# missing_values = [-9999]   # numbers that stand for missing ones, where the files do not declare them
# allow_outliers = ["TREFHT"]  # variables whose values far from all others are real
anomaly = "none"             # or mean, or monthly: subtract the mean of every calendar month
wrap = true                  # false for a regional grid
validation_fraction = 0.1    # or validation_files = ["*member7*"]
test_fraction = 0.1
source = "where the data come from"
licence = ""

[reference]
basis = "auto"               # harmonic_eof on a whole globe without gaps, else smooth; or eof, spherical, fourier and others

# [network]                  # a U-Net; these are the defaults
# width = 32
# multipliers = [1, 2, 2]
# dropout = 0.1

[noise]
process = "ou"

[optimiser]
steps = 7000
batch = 16
rate = 1e-3
"""

MOLECULES = """\
# New conformers of alanine dipeptide, from a model that ships with the package.
#   piadm sample run.toml                        then `piadm verify run`
model = "alanine-dipeptide"  # a shipped model, or a folder written by `piadm train`
samples = 1000
seed = 0
out = "run"

[chain]
eta = "auto"                 # the model's card recommends 0.5; 1: reverse SDE, 0: probability-flow ODE

[grid]
kind = "log-snr"
steps = "auto"               # the model's card recommends 20

[solver]
tol = 1e-2                   # bound on a sample's error, in units of the atoms' spread
"""

TRAIN_MOLECULES = """\
# A model of your own conformers, from any trajectories that MDAnalysis reads.
#   piadm train train.toml
name = "my-molecule"
title = "What the molecule is"
output = "my-molecule"
seed = 0

[data]
trajectories = ["run_*.xtc"] # or files of conformers written by this package
topology = "topology.pdb"
selection = "all"            # in MDAnalysis' selection language
stride = 1
alignment = "superposed"     # onto the mean structure; centred: only shifted
relabel = 1                  # further copies, in which the hydrogens of methyl groups are permuted
validation_fraction = 0.1    # or validation_files = ["run_8.xtc"]
test_fraction = 0.1
source = "where the data come from"
licence = ""

[network]
width = 256
depth = 5

[optimiser]
steps = 10000
batch = 512
rate = 1e-3
precision = "float32"        # bfloat16 on processors that multiply it in hardware
"""

KINDS = {
    "train": TRAIN,
    "train-molecules": TRAIN_MOLECULES,
    "climate": CLIMATE,
    "molecules": MOLECULES,
    "paper-sde": PAPER_SDE,
    "paper-ode": PAPER_ODE,
}


def template(kind: str) -> str:
    """Return the configuration called `kind`."""
    return KINDS[kind]
