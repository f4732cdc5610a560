"""A guard against tests that would never end. Nothing that a test is about may depend on it: it only has to be long."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

HANG = 600
"""Seconds after which a thread or a process counts as hanging, however busy the machine is."""


def attempts(what: str, pause: float = 0.0) -> Iterator[int]:
    """0, 1, ... until the caller leaves the loop; after HANG seconds an AssertionError: `what` never happened."""
    deadline = time.monotonic() + HANG
    for number in itertools.count():
        yield number
        assert time.monotonic() < deadline, f"{what} within {HANG} s"
        time.sleep(pause)
