"""TRL's configuration objects: what the benchmark decides, what the environment decides, and what a user may set."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from trl.import_utils import TRLExperimentalWarning

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.algorithms.registry import find_algorithm
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


def trl_algorithm(name: str, *, is_online: bool | None = None) -> TRLAlgorithm:
    """What the algorithm of that name, TRL's or ours, says of itself. Raises UnknownName.

    is_online: raise ConfigError where it samples while it trains, or does not, unlike this.
    """
    algorithm = find_algorithm(name, TRLAlgorithm.library)
    assert isinstance(algorithm, TRLAlgorithm)  # the library decides the class
    if is_online not in (None, algorithm.is_online):
        kind = "online" if is_online else "offline"
        raise ConfigError(f"{algorithm.name} is not an {kind} algorithm of TRL")
    return algorithm


def load_trl(place: str) -> Any:
    """A class of TRL. It warns every user of an experimental one, who has nowhere else to turn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TRLExperimentalWarning)
        return load_object(place)


def setting_names(config_class: type[Any], refused: Iterable[str]) -> list[str]:
    """The fields of `config_class` that are the user's. refused: further names that are not."""
    own = {*FIXED, *GIVEN, *refused}
    return [field.name for field in fields(config_class) if field.init and field.name not in own]


def check_names(algorithm: str, settings: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownName for a setting that is not `known`."""
    known = list(known)
    for name in settings:
        if name not in known:
            raise UnknownName(f"setting of {algorithm}", name, known)


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
    """A `config_class` object of what it has of `decided`, with the user's `settings` on top.

    folder: for what TRL writes whatever it is told. refused: further names that no user may set.
    Raises UnknownName for a setting that the class does not have or that is not the user's, ConfigError where TRL
    refuses a value.
    """
    check_names(algorithm, settings, setting_names(config_class, refused))
    known = [field.name for field in fields(config_class) if field.init]
    given = {"output_dir": folder, "seed": seed, "data_seed": seed, "use_cpu": device.type == "cpu"}
    arguments = {name: value for name, value in {**FIXED, **given, **decided}.items() if name in known}
    try:
        return config_class(**{**arguments, **settings})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{algorithm} refuses its settings {dict(settings)}: {error}") from error
