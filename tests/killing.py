"""A command that is started and killed again and again: `python tests/killing.py KILLS SEED FOLDER ARGUMENTS OF piadm`.

Every start is a fork of a process in which everything is loaded: loading takes seconds, and kills should meet the run at work.
One kill in two comes at a random moment, the other just after a shard came into FOLDER, whole or not, when most is at stake.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from piadm_hpc.cli import main as cli
from piadm_hpc.run import execute

LONGEST = 0.8  # seconds from a start to a kill at any moment
PATIENCE = 30.0  # and to one that waits for a file
BREATH = 0.02  # most seconds after that


def main(kills: int, seed: int, folder: Path, arguments: list[str]) -> int:
    """Kill as often as told; 1 when a start came to its end before it was killed."""
    torch.set_num_threads(1)
    assert execute  # loaded here, so that every start has them
    dice = random.Random(seed)
    for number in range(kills):
        before = _files(folder)
        child = os.fork()
        if child == 0:
            os._exit(cli.main(arguments))
        began = time.monotonic()
        if number % 2:
            while not _files(folder) - before and time.monotonic() - began < PATIENCE:
                time.sleep(0.002)
            time.sleep(dice.random() * BREATH)
        else:
            time.sleep(0.02 + dice.random() * LONGEST)
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            print(f"start {number} ended by itself", file=sys.stderr)
            return 1
    return 0


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("samples_*")}


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
