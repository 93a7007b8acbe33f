"""Fields and trajectories read from files."""
