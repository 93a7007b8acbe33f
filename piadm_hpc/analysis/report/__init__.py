"""`piadm report`: a run compared with its training data and with sequential solvers."""
