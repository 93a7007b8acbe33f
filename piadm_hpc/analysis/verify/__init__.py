"""`piadm verify`: samples compared with real data."""
