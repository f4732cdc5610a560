"""Rows on a model by its name: the demo's PPO on it, `transformers` and TRL on the same work, and its rooflines."""
