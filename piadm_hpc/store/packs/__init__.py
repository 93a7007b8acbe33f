"""Samples as one Zarr store (version 3, sharded), written while a run goes on.

Batches become HDF5 shards first, as in any run: they are the journal. Once all samples of a Zarr shard are in the journal, the
process that holds the folder writes it: a *pack*. The Zarr shard gets its name when all of it is on disk; then a record, a small
HDF5 file with the ids, the costs, the configuration and the checksums of the pack, appears whole; and only then are the shards of
the journal deleted. A kill at any moment leaves a sample in the journal, in a pack with a record, or in both.

Row r of the store is sample r, so that a row, once published, never changes, and a pack that is lost is written again in its
place. The last Zarr shard of a run may hold fewer samples than there is room for; its samples stay in the journal until it is
full. The metadata, with the number of rows, are written when the ranks have ended.
"""
