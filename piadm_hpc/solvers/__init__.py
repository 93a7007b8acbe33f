"""Solvers: what happens inside a block."""

from .evaluate import Evaluator, ScoreError
from .picard import solve_block
from .problem import Problem
from .sequential import run_steps
from .stopping import BlockSolution, Picard, Status

__all__ = ["BlockSolution", "Evaluator", "Picard", "Problem", "ScoreError", "Status", "run_steps", "solve_block"]
