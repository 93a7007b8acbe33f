"""A command that is started and killed again and again: `python tests/killing.py KILLS SEED ARGUMENTS OF piadm`.

Every start is a fork of a process in which everything is loaded: loading takes seconds, and kills should meet the run at work.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import torch

from piadm_hpc import cli, placement, run

LONGEST = 0.8  # seconds from a start to its kill


def main(kills: int, seed: int, arguments: list[str]) -> int:
    """Kill as often as told; 1 when a start came to its end before it was killed."""
    torch.set_num_threads(1)
    assert placement and run  # loaded here, so that every start has them
    dice = random.Random(seed)
    for number in range(kills):
        child = os.fork()
        if child == 0:
            os._exit(cli.main(arguments))
        time.sleep(0.02 + dice.random() * LONGEST)
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            print(f"start {number} ended by itself", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
