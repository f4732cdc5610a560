"""What TRL's stock trainers share: their configuration, a quiet place to work in, and a model left as it was."""

from __future__ import annotations

import contextlib
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import datasets
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import PrinterCallback, Trainer, TrainerCallback
from trl.import_utils import TRLExperimentalWarning

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.algorithms.registry import find_algorithm
from textrl_agents.training.divergence import GradientGuard, RewardRange
from textrl_agents.training.terminal import errors_only
from textrl_env import TextGenVectorEnv, user_values
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.foreign_text import shown
from textrl_env.models import CausalLMActorCritic
from textrl_env.models.storage.pretrained import quiet_loading

LOGGERS = ("trl", "accelerate", "datasets")
# Where it runs and what it writes. Full precision and no dropout, as everywhere else in the benchmark.
FIXED: dict[str, Any] = {
    "report_to": [],
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "steps",
    "logging_steps": 1,
    "disable_tqdm": True,
    "push_to_hub": False,
    "bf16": False,
    "fp16": False,
    "disable_dropout": True,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "use_vllm": False,
    "auto_find_batch_size": False,
    "trust_remote_code": False,
    "log_completions": False,  # would print raw model output, and send it where a repository is named
    "log_completions_hub_repo": None,
    # The trainer would drop the columns that a model's `forward` does not take.
    "remove_unused_columns": False,
}
# The caller of this module or the run gives these.
GIVEN = ("output_dir", "seed", "data_seed", "use_cpu", "model_init_kwargs", "max_steps", "run_name", "do_eval")


def refuse_turns(algorithm: TRLAlgorithm, env: TextGenVectorEnv) -> None:
    """Raise ConfigError where an episode has several turns: TRL's trainers sample and train one response."""
    if env.rules.turns is not None:
        algorithm.check_turns(env.task.name)


def trl_algorithm(name: str, *, is_online: bool | None = None) -> TRLAlgorithm:
    """What the algorithm of that name, TRL's or ours, says of itself.

    is_online: whether it has to sample while it trains; None takes either.
    Raises UnknownName, and ConfigError for an algorithm of the other kind.
    """
    algorithm = find_algorithm(name, TRLAlgorithm.library)
    assert isinstance(algorithm, TRLAlgorithm)  # the library decides the class
    if is_online not in (None, algorithm.is_online):
        kind = "online" if is_online else "offline"
        raise ConfigError(f"{algorithm.name} is not an {kind} algorithm of TRL")
    return algorithm


def load_trl(place: str) -> Any:
    """Import a class of TRL, without the warning that TRL gives every user of an experimental one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TRLExperimentalWarning)
        return load_object(place)


def check_names(
    algorithm: TRLAlgorithm, settings: Iterable[str], *, refused: Iterable[str], ours: Iterable[str] = ()
) -> None:
    """Raise UnknownName for a setting that TRL's config does not have or that is not the user's.

    refused: fields that are not the user's, besides FIXED and GIVEN. ours: settings that the config does not have.
    """
    decided = {*FIXED, *GIVEN, *refused}
    known = [name for name in _field_names(load_trl(algorithm.config_class)) if name not in decided]
    user_values.check_names(f"setting of {algorithm.name}", settings, [*known, *ours])


def check_settings(algorithm: TRLAlgorithm, settings: Mapping[str, Any], *, refused: Iterable[str]) -> None:
    """Raise ConfigError for settings that no training could have, as long as nothing is written.

    settings: the user's. refused: see `check_names`.
    """
    check_names(algorithm, settings, refused=refused)
    config_class = load_trl(algorithm.config_class)
    defaults = {field.name: field.default for field in fields(config_class)}
    for name, value in settings.items():
        if value is not None and _is_number(defaults[name]) and not (_is_number(value) and not math.isnan(value)):
            raise ConfigError(f"{name} of {algorithm.name} must be a number, got {shown(value)}")
    with trl_session() as scratch:
        fixed = {"output_dir": scratch, "use_cpu": True, **FIXED}
        try:
            made = config_class(**{name: value for name, value in fixed.items() if name in defaults}, **settings)
            optimizer_class, named = Trainer.get_optimizer_cls_and_kwargs(made)
            optimizer_class([torch.nn.Parameter(torch.zeros(1))], **named)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{algorithm.name} refuses its settings {dict(settings)}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def trl_arguments(
    algorithm: TRLAlgorithm,
    settings: Mapping[str, Any],
    *,
    folder: str,
    seed: int,
    policy: CausalLMActorCritic,
    decided: Mapping[str, Any],
    refused: Iterable[str],
) -> Any:
    """Make the algorithm's configuration: of `decided` the fields that it has, with the user's `settings` on top.

    folder: for what TRL writes whatever it is told. refused: see `check_names`.
    Raises UnknownName for a setting that is not the user's, and ConfigError where TRL refuses a value.
    """
    check_names(algorithm, settings, refused=refused)
    config_class = load_trl(algorithm.config_class)
    known = _field_names(config_class)
    given = {"output_dir": folder, "seed": seed, "data_seed": seed, "use_cpu": policy.device.type == "cpu"}
    arguments = {name: value for name, value in {**FIXED, **given, **decided}.items() if name in known}
    try:
        return config_class(**{**arguments, **settings})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{algorithm.name} refuses its settings {dict(settings)}: {error}") from error


def _field_names(config_class: Any) -> list[str]:
    return [field.name for field in fields(config_class) if field.init]


@contextlib.contextmanager
def trl_session() -> Iterator[str]:
    """Give a temporary folder; within, nothing is printed, and TRL does not report its trainers to the hub."""
    telemetry, bars = constants.HF_HUB_DISABLE_TELEMETRY, datasets.are_progress_bars_disabled()
    constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.disable_progress_bars()
    try:
        with contextlib.ExitStack() as stack, warnings.catch_warnings():
            # TRL uses names that transformers is about to change.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            stack.enter_context(quiet_loading())
            for name in LOGGERS:
                stack.enter_context(errors_only(name))
            yield stack.enter_context(tempfile.TemporaryDirectory(prefix="textrl-trl-"))
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        if not bars:
            datasets.enable_progress_bars()


def build_trainer(algorithm: TRLAlgorithm, policy: CausalLMActorCritic, arguments: Any, **keywords: Any) -> Any:
    """Make the algorithm's stock trainer of the policy's model. keywords: more of its arguments."""
    trainer = load_trl(algorithm.trainer_class)(model=policy.model, args=arguments, **keywords)
    trainer.remove_callback(PrinterCallback)  # prints every step where there is no progress bar
    return trainer


class StopOnDivergence(TrainerCallback):
    """Raises TrainingDiverged before a step whose gradient's norm is not finite. rewards: see GradientGuard."""

    def __init__(self, rewards: Callable[[], RewardRange | None] | None = None):
        self._rewards = rewards

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        GradientGuard(getattr(optimizer, "optimizer", optimizer), self._rewards)  # accelerate wraps it


def train_in_place(trainer: Any, policy: CausalLMActorCritic, checkpoint: str | None = None) -> None:
    """Run the trainer, from the start or a checkpoint of its own. The policy is then as it was, with other weights.

    Raises TextRLError where a checkpoint cannot be written.
    """
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except TextRLError:
        raise  # some, such as RewardTimeout, are OSErrors too
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch, which writes the optimizer's state, tells of a full disk in an error of no type of its own.
        is_of_a_file = not isinstance(error, RuntimeError) or "inline_container" in str(error)
        if trainer.args.save_strategy == "no" or not is_of_a_file:
            raise
        folder = trainer.args.output_dir
        raise TextRLError(f"a checkpoint in {folder} cannot be written: {error}. Those before are unchanged") from error
    finally:
        model = policy.model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.__dict__.pop("forward", None)  # TRL's own
        if "ref" in getattr(model, "peft_config", {}):  # TRL's copy of the adapter as it was
            model.delete_adapter("ref")
        model.eval()
        policy.clear_cache()
