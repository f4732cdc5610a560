"""Keep what libraries log out of a command's output."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def errors_only(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Silence the logger `name`, and those below it without a level of their own. level: what is still shown."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
