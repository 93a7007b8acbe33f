"""Training of models from fields and trajectories."""
