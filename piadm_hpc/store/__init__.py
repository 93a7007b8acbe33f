"""Samples on disk: whole shards, an index over them, and the words of the CF conventions."""
