"""The Gaussian reference of the data and the bases it is fitted in."""
