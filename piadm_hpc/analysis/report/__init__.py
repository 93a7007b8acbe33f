""": a run beside its training data and beside sequential solvers."""
