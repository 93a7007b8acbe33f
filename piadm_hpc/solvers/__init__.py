"""Solvers: how a chain, or a flow, is carried from noise to data by any number of ranks."""
