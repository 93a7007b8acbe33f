"""Configuration: validated records of a run, read from TOML."""
