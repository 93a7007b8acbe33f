"""Parallel solvers of other papers, for comparison."""
