"""Scores, figures and pages about runs."""
