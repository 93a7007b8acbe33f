"""Commands of the command line, one file each: `add` registers its options and what it runs."""
