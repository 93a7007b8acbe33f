"""The Gaussian reference of the data, and the bases that it is fitted in."""
