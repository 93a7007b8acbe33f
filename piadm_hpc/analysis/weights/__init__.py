"""Importance weights of samples with known densities: towards a Boltzmann distribution, or any density given up to a factor."""
