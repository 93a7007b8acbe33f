"""piadm plan: the cost of a run before it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..host.launcher import launched
from .exit_codes import DONE
from .options import add_run_options, described_run, speaks

if TYPE_CHECKING:
    from ..comm.timing import Network


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("plan", help="what a run will cost: rounds, calls, memory per rank, output, time")
    add_run_options(parser)
    parser.add_argument("--ranks", type=int, help="plan for this many ranks instead of the present ones")
    parser.add_argument("--memory", type=float, metavar="GB", help="memory of a rank [its share of this host's]")
    parser.add_argument("--nodes", type=int, metavar="N", help="plan for a job, and compare the ways to arrange its ranks")
    parser.add_argument("--ranks-per-node", type=int, metavar="N", default=1, help="with --nodes [1]")
    parser.add_argument("--latency", type=float, metavar="S", help="of a message; measured under a launcher")
    parser.add_argument("--bandwidth", type=float, metavar="B/S", help="bytes a second; measured under a launcher")
    parser.add_argument("--pilot", action="store_true", help="solve one sample to measure its sweeps")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the plan of the run that the options describe; returns the exit code."""
    from ..run.plan import plan

    config, network = described_run(options), _network(options)
    if getattr(options, "nodes", None) is not None:
        text = _of_a_job(options, config, network)
    else:
        text = str(plan(config, ranks=options.ranks, pilot=options.pilot, memory=options.memory, network=network))
    if speaks():
        print(text)
    return DONE


def _network(options: argparse.Namespace) -> Network:
    """Latency and bandwidth: as given, else measured between the ranks of a launch, else typical ones."""
    from ..comm.rank_grid import rank_grid
    from ..comm.timing import Network, measure

    given = {name: value for name in ("latency", "bandwidth") if (value := getattr(options, name, None)) is not None}
    if bad := [f"--{name} {value:g}: must be more than zero" for name, value in given.items() if value <= 0]:
        raise ConfigError("; ".join(bad))
    if launched() and not given:
        return measure(rank_grid().world)
    return Network(**given)


def _of_a_job(options: argparse.Namespace, config: RunConfig, network: Network) -> str:
    """The plan of the fastest arrangement of a job's ranks, and a line for each of the others."""
    from ..run.plan import rank_grids

    ranks = options.nodes * options.ranks_per_node
    if options.ranks is not None or options.nodes < 1 or options.ranks_per_node < 1:
        raise ConfigError(f"--nodes {options.nodes} --ranks-per-node {options.ranks_per_node}: at least one each, and no --ranks")
    plans = rank_grids(config, ranks=ranks, pilot=options.pilot, memory=options.memory, network=network)
    lines = [str(plans[0]), f"  a message        {network}", f"ways to arrange {ranks} ranks on {options.nodes} nodes:"]
    lines += [
        f"  {made.groups:4d} sample groups x {made.time_ranks:3d} time ranks   about {made.seconds:.2g} s"
        f" ({made.communication:.2g} s messages), {made.memory_per_rank / 1e6:.0f} MB a rank"
        for made in plans
    ]
    best = plans[0]
    if best.sequential_seconds is not None and best.sequential_seconds < best.seconds:
        lines.append(f'suggestion: --set solver.kind="sequential": step by step takes about {best.sequential_seconds:.2g} s')
    else:
        lines.append(f"suggestion: --time-ranks {best.time_ranks}")
    return "\n".join(lines)
