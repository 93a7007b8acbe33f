"""Communication between ranks: communicators, rank grids, the scan of affine maps."""
