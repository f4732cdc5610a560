"""A guard against tests that would never end; nothing that a test is about may depend on it."""

HANG = 600
"""Seconds after which a thread or process counts as hanging, however busy the machine is."""
