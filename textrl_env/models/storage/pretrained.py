"""A model from its files, with the names of the weights that these lack."""

from __future__ import annotations

import logging
from typing import Any

from transformers.utils import logging as transformers_logging

from textrl_env.models.storage.hub import local_files_only
from textrl_env.models.storage.quiet import quiet_loading


def load_pretrained(auto_class: Any, source: str, dtype: Any) -> tuple[Any, list[str]]:
    """`auto_class.from_pretrained(source)`, and the weights that are not in its files; code of a model is never run.

    Transformers fills these with random numbers, warns and goes on. Weights that are tied to others, and so need not be
    in the files, do not count. Raises whatever transformers raises, and ModelError where the hub does not answer.
    """
    here = local_files_only(source)
    log = transformers_logging.get_logger("transformers.modeling_utils")
    level = log.level
    log.setLevel(logging.ERROR)  # its report of missing weights, which the caller raises
    try:
        with quiet_loading():
            model, report = auto_class.from_pretrained(
                source, dtype=dtype, trust_remote_code=False, output_loading_info=True, local_files_only=here
            )
    finally:
        log.setLevel(level)
    return model, sorted(report["missing_keys"])
