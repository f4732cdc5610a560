"""Keeps what libraries say of themselves out of a command's output."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar for every model read or written, checkpoints included, and no remarks on their layers."""
    from transformers.utils import logging as transformers_logging

    had_bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def errors_only(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Of the logger `name`, and of those below it that have no level of their own; level: what is still shown."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
