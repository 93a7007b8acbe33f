"""The equations: noising processes, time grids, noise, bases, and the chain."""
