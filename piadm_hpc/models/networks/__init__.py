"""Neural networks for fields and molecules."""
