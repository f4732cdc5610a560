"""The algorithms that ship: one file each, whose name is the algorithm's and whose `ALGORITHM` describes it."""
