"""Solvers: they take a chain, or a flow, from noise to data on any number of ranks."""
