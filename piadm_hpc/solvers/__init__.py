"""Solvers: how a chain is solved, step by step or all of its steps at once."""
