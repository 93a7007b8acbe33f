"""Settings of all tests."""

from hypothesis import settings

# examples have no deadline of their own: a busy machine is no failure, and pytest stops what hangs
settings.register_profile("piadm", deadline=None)
settings.load_profile("piadm")
