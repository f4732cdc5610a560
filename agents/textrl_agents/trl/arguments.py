"""TRL's configuration objects: what the benchmark decides, what the environment decides, and what a user may set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch

from textrl_env.errors import ConfigError, UnknownName

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
}
# Given by the caller of this module, or by the run.
GIVEN = ("output_dir", "seed", "data_seed", "use_cpu", "model_init_kwargs", "max_steps", "run_name", "do_eval")


def trl_arguments(
    config_class: type[Any],
    algorithm: str,
    settings: Mapping[str, Any],
    *,
    folder: str,
    seed: int,
    device: torch.device,
    decided: Mapping[str, Any],
    refused: Iterable[str] = (),
) -> Any:
    """A `config_class` object of `decided`, with the user's `settings` on top.

    folder: for what TRL writes whatever it is told. refused: further names that no user may set.
    Raises UnknownName for a setting that the class does not have or that is not the user's, ConfigError where TRL
    refuses a value.
    """
    known = [field.name for field in fields(config_class) if field.init]
    own = {*FIXED, *GIVEN, *refused}
    for name in settings:
        if name not in known or name in own:
            raise UnknownName(f"setting of {algorithm}", name, [option for option in known if option not in own])
    given = {"output_dir": folder, "seed": seed, "data_seed": seed, "use_cpu": device.type == "cpu"}
    arguments = {name: value for name, value in {**FIXED, **given}.items() if name in known}
    try:
        return config_class(**{**arguments, **decided, **settings})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{algorithm} refuses its settings {dict(settings)}: {error}") from error
