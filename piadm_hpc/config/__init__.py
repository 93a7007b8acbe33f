"""Configuration of a run as validated records."""
