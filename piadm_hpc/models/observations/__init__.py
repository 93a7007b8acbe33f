"""Observations of a model's fields: their operators, and the posterior that they give."""
