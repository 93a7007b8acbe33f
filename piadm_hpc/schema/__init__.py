"""What fields and molecules are called: variables, dimensions, units, atoms."""
