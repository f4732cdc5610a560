"""Rows on sampling: decoding, whole rollouts, scores."""
