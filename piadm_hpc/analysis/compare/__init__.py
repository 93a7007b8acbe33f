""": every solver at equal error."""
