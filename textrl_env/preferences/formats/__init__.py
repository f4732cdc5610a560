"""Formats in which feedback is exchanged, one file each."""
