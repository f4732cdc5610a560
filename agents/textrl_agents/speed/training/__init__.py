"""Rows on training: updates, precision, what is learned, and the same work by RLlib and TRL."""
