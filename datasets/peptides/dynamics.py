"""Reference dynamics of ACE-ALA_n-NME: OpenMM, Amber ff14SB with implicit solvent (GBn2), 300 K, from ten typed-in atoms.

    python dynamics.py bias --folder run                  # minutes: a bias over (phi, psi) by well-tempered metadynamics
    python dynamics.py run --folder run --walkers 16 --segments 4 --processes 2    # resumable: makes what is missing
    python dynamics.py join --folder run                 # conformer files run/walker_00.h5 ... with log-weights
    python dynamics.py run --residues 5 --folder penta    # longer chains; without `bias` first, dynamics as they are

The rare basin (phi > 0) is left and entered on a scale of tens of nanoseconds. A fixed bias, kept from the metadynamics and
never changed again, flattens the surface of the two torsions: nearly all of it for every second walker, so that both basins
are entered often, and half of it for the others, so that most frames are of the common ones. `join` gives every frame the
weight with which all of them together follow the unbiased ensemble (Shirts and Chodera 2008, MBAR, eqs. 9 and 11). Bonds to
hydrogen are flexible: their atoms are made heavy (4 u, which changes no equilibrium average of positions), so that 3 fs
resolve them and the density has no delta functions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from joining import join
from walkers import find_bias, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bias", "run", "join"])
    parser.add_argument("--folder", type=Path, default=Path("dynamics"))
    parser.add_argument("--residues", type=int, default=1, help="alanines in the chain")
    parser.add_argument("--nanoseconds", type=float, default=4.0, help="of metadynamics")
    parser.add_argument("--walkers", type=int, default=16)
    parser.add_argument("--segments", type=int, default=4, help="of 1 ns per walker")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.what == "bias":
        find_bias(given.folder, given.residues, given.nanoseconds)
    elif given.what == "join":
        join(given.folder, given.residues)
    else:
        run(given.folder, given.residues, list(range(given.walkers)), given.segments, given.seed, given.processes)
