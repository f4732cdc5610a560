"""A place for TRL to work in: a folder that goes away, no word on the terminal, nothing sent anywhere."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import datasets
from huggingface_hub import constants
from transformers import PrinterCallback, TrainerCallback

from textrl_agents.training.divergence import GradientGuard, RewardRange
from textrl_agents.training.terminal import errors_only
from textrl_env.models.storage.pretrained import quiet_loading

LOGGERS = ("trl", "accelerate", "datasets")


@contextlib.contextmanager
def trl_session() -> Iterator[str]:
    """Gives a temporary folder. TRL reports each trainer that is built to the hub; not within this."""
    telemetry, bars = constants.HF_HUB_DISABLE_TELEMETRY, datasets.are_progress_bars_disabled()
    constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.disable_progress_bars()
    try:
        with contextlib.ExitStack() as stack, warnings.catch_warnings():
            # Of TRL's own use of names that transformers is about to change.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            stack.enter_context(quiet_loading())
            for name in LOGGERS:
                stack.enter_context(errors_only(name))
            yield stack.enter_context(tempfile.TemporaryDirectory(prefix="textrl-trl-"))
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        if not bars:
            datasets.enable_progress_bars()


def silence(trainer: Any) -> None:
    """No line on the terminal for each step, which the trainer prints where there is no progress bar."""
    trainer.remove_callback(PrinterCallback)


class StopOnDivergence(TrainerCallback):
    """Raises TrainingDiverged before a step whose gradient's norm is not finite. rewards: see GradientGuard."""

    def __init__(self, rewards: Callable[[], RewardRange | None] | None = None):
        self._rewards = rewards

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        GradientGuard(getattr(optimizer, "optimizer", optimizer), self._rewards)  # accelerate wraps it


def restore(model: Any) -> None:
    """Take TRL's own `forward` off a model again, and switch its training mode off."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.__dict__.pop("forward", None)
    if "ref" in getattr(model, "peft_config", {}):  # TRL's copy of the adapter as it was
        model.delete_adapter("ref")
    model.eval()
