"""Models from their files: read and written without chatter, and asked for at the hub only where it answers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public there, though not in its `__all__`
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging as transformers_logging

from textrl_env.catalogue.entries import CATALOGUE
from textrl_env.errors import ModelError, did_you_mean
from textrl_env.foreign_text import shown
from textrl_env.models.storage.embedded import MODELS

# Seconds for the one request that tells whether the hub answers. The hub's own client tries six times, which takes a
# minute where there is no network, for the model and its tokenizer each.
PATIENCE = 5.0
# Where transformers remarks on layers that no plan for several GPUs names; a single device has no such plan.
_SHARDING = ("transformers.distributed.tensor_parallel", "transformers.integrations.tensor_parallel")


def load_pretrained(auto_class: Any, source: str, dtype: Any, *, kind: str, **config: Any) -> tuple[Any, list[str]]:
    """`auto_class.from_pretrained(source)`, and the weights that are not in its files; code of a model is never run.

    config: values for its configuration, in place of those in its files.

    Transformers fills these with random numbers, warns and goes on. Weights that are tied to others, and so need not be
    in the files, do not count. Raises ModelError, which calls the model `kind`, where it cannot be loaded.
    """
    here = local_files_only(source)
    log = transformers_logging.get_logger("transformers.modeling_utils")
    level = log.level
    log.setLevel(logging.ERROR)  # its report of missing weights, which the caller raises
    try:
        with quiet_loading():
            model, report = auto_class.from_pretrained(
                source, dtype=dtype, trust_remote_code=False, output_loading_info=True, local_files_only=here, **config
            )
    except Exception as error:  # any of a dozen types: OSError, ValueError, SafetensorError, ...
        raise ModelError(
            f"{kind} {shown(source, 300)} cannot be loaded: {first_lines(error)}{_meant(source)}"
        ) from error
    finally:
        log.setLevel(level)
    return model, sorted(report["missing_keys"])


def load_tokenizer_of(source: str, wanted_by: str) -> Any:
    """The tokenizer in a folder or of a model's id. Raises ModelError, which names `wanted_by`, where there is none."""
    from transformers import AutoTokenizer

    here = local_files_only(source)
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=here)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of {shown(wanted_by, 300)} cannot be loaded: {first_lines(error)}{_meant(source)}"
        ) from error


def first_lines(error: Exception) -> str:
    """An error of another library in a line: its type and the beginning of its message."""
    return f"{type(error).__name__}: " + " ".join(str(error).splitlines()[:3])


def local_files_only(name: str) -> bool:
    """Whether the files of a model must come from this machine: it is a folder, or the hub does not answer.

    name: a folder or a model's id. Raises ModelError where the hub does not answer and no file of it is here.
    """
    if Path(name).is_dir():
        return True
    reason = _silence_of_the_hub(name)
    if reason is None:
        return False
    try:
        cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        cached = None
    if not isinstance(cached, str):
        raise ModelError(
            f"model {name!r} is no folder and no model that was downloaded before, and the hub cannot be asked for it "
            f"({reason}). Name a folder (such as ./{Path(name).name}), or connect.{_meant(name)}"
        )
    return True


def _meant(source: str) -> str:
    """A question whether one of our own names was meant; "" for a folder."""
    return "" if Path(source).is_dir() else did_you_mean(source, [*MODELS, *CATALOGUE])


def _silence_of_the_hub(name: str) -> str | None:
    """Why the hub gives no answer about `name`; None where it gives any."""
    if huggingface_hub.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(name, "config.json"), timeout=PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return None  # a refusal is an answer, and the loader's own message is the best
    except Exception as error:  # of the HTTP library that this version of the hub's client uses
        return f"{type(error).__name__}: {error}"
    return None


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar for weights that are read or written here, and no remark on layers that are not sharded.

    Downloads keep their bars, other warnings are shown, and afterwards the caller's settings are as they were.
    """
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
