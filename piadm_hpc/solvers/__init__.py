"""Solvers: what happens inside a block."""

from .evaluate import Evaluator, ScoreError
from .problem import Problem
from .sequential import run_steps
from .sweep import solve_block
from .tolerance import BlockSolution, Status, Tolerance

__all__ = ["BlockSolution", "Evaluator", "Problem", "ScoreError", "Status", "Tolerance", "run_steps", "solve_block"]
