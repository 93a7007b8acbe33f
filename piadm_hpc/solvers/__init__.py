"""Solvers: what happens inside a block."""

from .evaluate import Evaluator, ScoreError
from .problem import Problem
from .sequential import run_steps
from .sweep import solve_block
from .tolerance import BlockSolution, Picard, Status

__all__ = ["BlockSolution", "Evaluator", "Picard", "Problem", "ScoreError", "Status", "run_steps", "solve_block"]
