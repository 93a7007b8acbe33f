"""Solvers: what happens inside a block."""

from .evaluate import Evaluator, ScoreError
from .picard import BlockSolution, Picard, Status, solve_block
from .problem import Problem
from .sequential import run_steps

__all__ = ["BlockSolution", "Evaluator", "Picard", "Problem", "ScoreError", "Status", "run_steps", "solve_block"]
