""": samples judged against data."""
