"""Start and kill a command again and again: `python tests/killing.py KILLS SEED FOLDER ARGUMENTS OF piadm`.

Every start is a fork of a process in which everything is loaded: loading takes seconds, and kills should meet the run at work.
Every other kill comes at a random moment; the rest come just after a shard appeared in FOLDER, whole or not, when most is at
stake.
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

LONGEST = 0.8  # seconds from a start until it is killed at a random moment
PATIENCE = 30.0  # seconds from a start until it is killed although no file has appeared
BREATH = 0.02  # seconds from a new file until the kill, at most


def main(kills: int, seed: int, folder: Path, arguments: list[str]) -> int:
    """Kill `kills` starts; return 1 if one of them ended before it was killed, and else 0."""
    torch.set_num_threads(1)
    assert execute  # imported here, so that no fork has to import it
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
