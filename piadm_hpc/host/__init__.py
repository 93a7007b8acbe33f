"""The machine: what launchers, Slurm and signals tell a process, without loading MPI."""
