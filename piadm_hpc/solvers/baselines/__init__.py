"""Baselines: parallel solvers from other papers, for comparison."""
