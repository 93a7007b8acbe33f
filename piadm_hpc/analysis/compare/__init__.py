"""`piadm compare`: all solvers at equal error."""
