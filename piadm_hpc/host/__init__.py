"""The machine: MPI launchers, Slurm, and signals that ask a process to stop."""
