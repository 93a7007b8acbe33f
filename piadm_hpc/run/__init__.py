"""One configured run: built, resolved, planned, executed."""
