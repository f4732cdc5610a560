"""What an algorithm outside SB3 and RLlib starts from: its settings, the environment it samples in, the policy."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from gymnasium.vector import AutoresetMode

from textrl_agents.algorithms.cell import Cell
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.models import CausalLMActorCritic, load_model

ROWS = 64  # sampled at once

Settings = TypeVar("Settings")


def settings_of(cell: Cell, kind: type[Settings]) -> Settings:
    """The cell's settings as the dataclass `kind`. Raises UnknownName for one that it does not have."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in cell.settings:
        if name not in known:
            raise UnknownName(f"setting of {cell.algorithm}", name, known)
    return kind(**cell.settings)


def training_env(cell: Cell, rows: int = ROWS) -> TextGenVectorEnv:
    """The cell's environment over its training prompts, whose KL is charged afterwards."""
    arguments = {**cell.env_arguments, "kl_mode": "deferred"}
    return TextGenVectorEnv(rows, autoreset_mode=AutoresetMode.SAME_STEP, **arguments)


def initial_policy(env: TextGenVectorEnv) -> CausalLMActorCritic:
    """A policy that is the environment's reference, in weights of its own.

    Of a peft model the weights are shared, since its reference is the same module with the adapter off.
    """
    reference = env.kl_penalty.require_reference()
    model = reference.lm.model
    if env.model_name is not None:
        device, dtype = reference.lm.device, reference.lm.dtype
        model = load_model(env.model_name, tokenizer=env.tokenizer, device=device, dtype=dtype).model
    elif not hasattr(model, "disable_adapter"):
        model = copy.deepcopy(model).requires_grad_(True)
    return CausalLMActorCritic(model, env.tokenizer, max_length=env.rules.max_length, sampling=env.rules.sampling)


def trained_weights(policy: CausalLMActorCritic) -> list[Any]:
    """The language model's parameters that take gradients; the value head is not among them."""
    return [weight for weight in policy.model.parameters() if weight.requires_grad]


def learning_schedule(given: float | Mapping[str, float] | None, weights: Iterable[Any]) -> WarmupSchedule:
    """The learning rate over the budget: a number is constant, the rest is what `WarmupSchedule.of` takes.

    Raises ConfigError.
    """
    if given is None or isinstance(given, Mapping):
        return WarmupSchedule.of(given, sum(weight.numel() for weight in weights))
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise ConfigError(
            f"learning_rate must be a number >= 0 or a mapping with peak or scale, warmup and final, got {given!r}"
        )
    return WarmupSchedule(float(given), warmup=0.0, final=1.0)
