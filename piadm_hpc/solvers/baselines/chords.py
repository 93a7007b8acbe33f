"""CHORDS (Han et al. 2025, 2507.15260): cores that start further and further along a chain, each corrected by the one behind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...comm.communicator import Communicator
from ...theory.grid import Block, Partition
from ..guess import Guess
from ..options import Options
from ..problem import Problem
from ..solution import BlockSolution, Interrupted, ShouldStop
from .parareal import state_change
from .settings import STARTS
from .stepping import step_together


class Chords:
    """`cores` states of every sample walk a block at once, one network call each a round.

    Core k starts at its point by one jump from the start of core k-1, one round after it. Whenever core k-1 comes to the
    point p where core k has (re)started, core k's state x is moved to x + Jump(x_{k-1}, p) - Jump(x_k, p) and restarts
    there; a jump holds the denoised estimate of the call at p, as DDIM does. Cores end the furthest first; a sample is done
    when two that end one after the other differ by at most `tol` (root mean square, in units of the data). The last is
    the chain step by step. Cores are dealt out to ranks; every round one sum tells all of them all states.
    """

    def __init__(
        self, problem: Problem, block: Block, guess: Guess, options: Options, comm: Communicator, should_stop: ShouldStop | None
    ):
        if options.tol is None or options.sweeps is not None:
            raise ValueError("chords: it ends when two cores agree; give a tolerance, and no number of sweeps")
        if options.parts not in (None, *STARTS):
            raise ValueError(f"chords: {options.parts} cores; starts are known for {', '.join(map(str, STARTS))}")
        marks = [round(share * len(block)) for share in STARTS[options.parts or 8]]
        self.starts = [block.start]
        for mark in marks:
            # a core that starts next to the one behind it would only keep it company
            if block.start + mark > self.starts[-1] + 1:
                self.starts.append(block.start + mark)
        if len(self.starts) < comm.size:
            raise ValueError(f"chords: {len(self.starts)} cores for {comm.size} time ranks; use fewer ranks or more cores")
        self.problem, self.block, self.guess, self.options, self.comm = problem, block, guess, options, comm
        self.should_stop = should_stop
        own = Partition(len(self.starts), comm.size).slice(comm.rank)
        self.own = range(own.start, own.stop)

    def solve(self, first: Tensor, samples: Sequence[int]) -> BlockSolution:
        """Solve from coordinates `first` [samples, c, n]; collective. Raises ScoreError on every rank."""
        cores, block = len(self.starts), self.block
        index, names, result = torch.arange(len(samples)), list(samples), BlockSolution.unsolved(first, len(samples))
        z = first.repeat(cores, 1, 1, 1)
        held, begun, at = torch.zeros_like(z[:, :, 0]), z.clone(), torch.zeros_like(z[:, :, 0])
        restarts, ended = list(self.starts), torch.full_like(first, torch.inf)
        for number in range(len(block)):
            if self.should_stop is not None and self.should_stop(len(samples) - len(names)):
                finished = [position for position in range(len(samples)) if position not in index]
                raise Interrupted(finished, result.of(finished))
            places = [start + number - core for core, start in enumerate(self.starts)]
            alive = [core for core in range(cores) if number >= core and places[core] < block.stop]
            began = z
            z, held = self._round(alive, places, z, held, names)
            result.calls[index] += len(alive)
            result.sweeps[index] += 1
            for core in alive:
                if places[core] == restarts[core]:
                    begun[core], at[core] = began[core], held[core]
                self._hand_on(core, alive, places, restarts, z, (began, held), (begun, at), names)
            last = alive[-1]
            if places[last] + 1 < block.stop:
                continue
            change = state_change(self.problem, self.options, block.stop, z[last], ended)
            ended = z[last].clone()
            done = (change <= float(self.options.tol or 0.0)) | (last == 0)
            result.end[index[done]], result.residual[index[done]] = z[last][done], change[done].nan_to_num(posinf=0.0)
            index, names = index[~done], [name for name, gone in zip(names, done.tolist(), strict=True) if not gone]
            if not names:
                break
            z, held, begun, at = (one[:, ~done] for one in (z, held, begun, at))
            ended = ended[~done]
        return result

    def _round(self, alive: list[int], places: list[int], z: Tensor, held: Tensor, names: list[int]) -> tuple[Tensor, Tensor]:
        """One step of every living core: states of all cores after it, and the remainders of their denoised estimates."""
        mine = [core for core in self.own if core in alive]
        points = [places[core] for core in mine]
        after, kicks = self.problem.evaluator.together(self.comm, lambda: step_together(self.problem, points, z[mine], names))
        told = torch.zeros(len(z), z.shape[1], z.shape[2] + 1, z.shape[3], dtype=z.dtype, device=z.device)
        for row, core in enumerate(mine):
            told[core, :, :-1] = after[row]
            told[core, :, -1] = self.guess.remainder(places[core], z[core], kicks[row])
        told = self.comm.sum(told)
        living = torch.tensor([core in alive for core in range(len(z))], device=z.device)[:, None, None]
        return torch.where(living[..., None], told[:, :, :-1], z), torch.where(living, told[:, :, -1], held)

    def _hand_on(
        self,
        core: int,
        alive: list[int],
        places: list[int],
        restarts: list[int],
        z: Tensor,
        behind: tuple[Tensor, Tensor],
        ahead: tuple[Tensor, Tensor],
        names: list[int],
    ) -> None:
        """What a core's call at its place is worth to the next one: its start, or a correction where it restarted."""
        after, place = core + 1, places[core]
        if after == len(z):
            return
        began, held = behind
        if after not in alive and place == self.starts[core]:
            z[after] = self.guess.jump(began[core], place, self.starts[after], names, held[core])
        elif after in alive and place == restarts[after]:
            here, (old, at) = places[after] + 1, ahead
            z[after] += self.guess.jump(began[core], place, here, names, held[core])
            z[after] -= self.guess.jump(old[after], place, here, names, at[after])
            restarts[after] = here
