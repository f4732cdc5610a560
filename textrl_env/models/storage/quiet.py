"""Loading and saving models without the chatter: what says nothing to a user is not printed, what warns him is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

# Where transformers remarks on layers that no plan for several GPUs names; a single device has no such plan.
_SHARDING = ("transformers.distributed.tensor_parallel", "transformers.integrations.tensor_parallel")


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar for weights that are read or written here, and no remark on layers that are not sharded.

    Downloads keep their bars, other warnings are shown, and afterwards the caller's settings are as they were.
    """
    # Public there, though not in its `__all__`.
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    had_bars, downloads_had_none = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # of downloads too
    if not downloads_had_none:
        enable_progress_bars()
    loggers = [logging.getLogger(name) for name in _SHARDING]
    for logger in loggers:
        logger.addFilter(_says_something)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_says_something)
        if had_bars:
            transformers_logging.enable_progress_bar()
        if downloads_had_none:
            disable_progress_bars()


def _says_something(record: logging.LogRecord) -> bool:
    return "layers were not sharded" not in record.getMessage()
