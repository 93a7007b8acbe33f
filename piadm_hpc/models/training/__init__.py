"""Training of models on fields and trajectories."""
