"""The machine: devices, launchers, Slurm and signals, without loading MPI."""
