"""CHORDS (Han et al. 2025, 2507.15260): cores start further and further along a chain, each corrected by the one behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...theory.grid import Partition
from ..solution import BlockSolution, Interrupted
from .parareal import state_change
from .settings import STARTS
from .stepping import BlockStepper, step_together


@dataclass
class Chords(BlockStepper):
    """Advances several states (cores) of every sample through a block at once; each calls the network once a round.

    Core k jumps to its first point from the start of core k-1, one round after it. Whenever core k-1 reaches the point p
    where core k (re)started, core k's state x becomes x + Jump(x_{k-1}, p) - Jump(x_k, p) and restarts there. A jump keeps the
    denoised estimate of the call at p constant, as DDIM does. The core furthest ahead ends first. A sample is done when two
    cores that end one after the other differ by at most `tol` (root mean square, in units of the data's scale); the last
    core is the chain step by step. The cores are divided among the ranks, and one sum a round gives every rank all states.
    """

    def __post_init__(self) -> None:
        options, block, comm = self.options, self.block, self.comm
        if options.tol is None or options.sweeps is not None:
            raise ValueError("chords: the iteration ends when two cores agree; give a tolerance, and no number of sweeps")
        if options.parts not in (None, *STARTS):
            raise ValueError(f"chords: {options.parts} cores; starts are known for {', '.join(map(str, STARTS))}")
        marks = [round(share * len(block)) for share in STARTS[options.parts or 8]]
        self.starts = [block.start]
        for mark in marks:
            # a core that starts right next to the one behind it would correct nothing
            if block.start + mark > self.starts[-1] + 1:
                self.starts.append(block.start + mark)
        if len(self.starts) < comm.size:
            raise ValueError(f"chords: {len(self.starts)} cores for {comm.size} time ranks; use fewer ranks or more cores")
        own = Partition(len(self.starts), comm.size).slice(comm.rank)
        self.own = range(own.start, own.stop)

    def solve(self, first: Tensor, samples: Sequence[int]) -> BlockSolution:
        cores, block = len(self.starts), self.block
        index, names, result = torch.arange(len(samples)), list(samples), BlockSolution.unsolved(first, len(samples))
        z = first.repeat(cores, 1, 1, 1)
        remainder, restart_states, restart_remainders = torch.zeros_like(z[:, :, 0]), z.clone(), torch.zeros_like(z[:, :, 0])
        restarts, ended = list(self.starts), torch.full_like(first, torch.inf)
        for number in range(len(block)):
            if self.should_stop is not None and self.should_stop(len(samples) - len(names)):
                finished = [position for position in range(len(samples)) if position not in index]
                raise Interrupted(finished, result.of(finished))
            places = [start + number - core for core, start in enumerate(self.starts)]
            active = [core for core in range(cores) if number >= core and places[core] < block.stop]
            before = z
            z, remainder = self._round(active, places, z, remainder, names)
            result.calls[index] += len(active)
            result.sweeps[index] += 1
            for core in active:
                if places[core] == restarts[core]:
                    restart_states[core], restart_remainders[core] = before[core], remainder[core]
                self._hand_on(core, active, places, restarts, z, (before, remainder), (restart_states, restart_remainders), names)
            last = active[-1]
            if places[last] + 1 < block.stop:
                continue
            change = state_change(self.problem, self.options, block.stop, z[last], ended)
            ended = z[last].clone()
            done = (change <= float(self.options.tol or 0.0)) | (last == 0)
            result.end[index[done]], result.residual[index[done]] = z[last][done], change[done].nan_to_num(posinf=0.0)
            index, names = index[~done], [name for name, gone in zip(names, done.tolist(), strict=True) if not gone]
            if not names:
                break
            z, remainder, restart_states, restart_remainders = (
                one[:, ~done] for one in (z, remainder, restart_states, restart_remainders)
            )
            ended = ended[~done]
        return result

    def _round(
        self, active: list[int], places: list[int], z: Tensor, remainder: Tensor, names: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Take one step with every active core; returns the states of all cores and the remainders of their estimates."""
        mine = [core for core in self.own if core in active]
        points = [places[core] for core in mine]
        after, scores = self.problem.evaluator.together(self.comm, lambda: step_together(self.problem, points, z[mine], names))
        summed = torch.zeros(len(z), z.shape[1], z.shape[2] + 1, z.shape[3], dtype=z.dtype, device=z.device)
        for row, core in enumerate(mine):
            summed[core, :, :-1] = after[row]
            summed[core, :, -1] = self.predictor.remainder(places[core], z[core], scores[row])
        summed = self.comm.sum(summed)
        mask = torch.tensor([core in active for core in range(len(z))], device=z.device)[:, None, None]
        return torch.where(mask[..., None], summed[:, :, :-1], z), torch.where(mask, summed[:, :, -1], remainder)

    def _hand_on(
        self,
        core: int,
        active: list[int],
        places: list[int],
        restarts: list[int],
        z: Tensor,
        behind: tuple[Tensor, Tensor],
        ahead: tuple[Tensor, Tensor],
        names: list[int],
    ) -> None:
        """Use a core's call at its present point for the next core: to start it, or to correct it where it restarted."""
        after, place = core + 1, places[core]
        if after == len(z):
            return
        before, remainder = behind
        if after not in active and place == self.starts[core]:
            z[after] = self.predictor.jump(before[core], place, self.starts[after], names, remainder[core])
        elif after in active and place == restarts[after]:
            here, (old, restart_remainders) = places[after] + 1, ahead
            z[after] += self.predictor.jump(before[core], place, here, names, remainder[core])
            z[after] -= self.predictor.jump(old[after], place, here, names, restart_remainders[after])
            restarts[after] = here
