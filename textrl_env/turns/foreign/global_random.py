"""Random state of its own for code that draws from Python's and NumPy's global generators."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from textrl_env.errors import TextRLError

_LOCK = threading.Lock()  # there is one global state: two threads must not swap it at once
LONGEST_WAIT = 60.0  # seconds


class GlobalRandom:
    """The state of `random` and `numpy.random` as one piece of code sees it.

    Within `swapped`, the global generators go on where this one's last `swapped` ended; behind it they are as they were
    before. So neither side's draws change the other's. One `swapped` runs at a time in a process.
    """

    def __init__(self) -> None:
        self._state: tuple[Any, Any] | None = None

    @contextlib.contextmanager
    def swapped(self, seed: int | None = None) -> Iterator[None]:
        """Swap the states in for a block. seed: a whole number >= 0 that the block begins from.

        Raises TextRLError where another thread has held the global state for a minute.
        """
        if not _LOCK.acquire(timeout=LONGEST_WAIT):
            raise TextRLError(
                f"another game has not returned for {LONGEST_WAIT:g} s, and games that draw from the global random "
                "state run one at a time; find out which hangs, or start the process anew"
            )
        try:
            outer = random.getstate(), np.random.get_state()
            try:
                if seed is not None or self._state is None:
                    random.seed(seed)
                    np.random.seed(None if seed is None else seed % 2**32)
                else:
                    random.setstate(self._state[0])
                    np.random.set_state(self._state[1])
                try:
                    yield
                finally:
                    self._state = random.getstate(), np.random.get_state()
            finally:
                random.setstate(outer[0])
                np.random.set_state(outer[1])
        finally:
            _LOCK.release()
