"""Descriptions of samples: variables, dimensions, coordinates and units of fields; atoms and bonds of molecules."""
