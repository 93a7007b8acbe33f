"""Statistics over the members of a run, from sums that do not depend on the order in which members come.

Every batch of members becomes a *part*: a file with the ids of its members and their sums, which appears whole or not at all.
Parts with different members are merged into one; two parts that share a member are never added, so that each member counts
once, whatever was killed, and statistics.h5 is written from the one part that is left.
"""
