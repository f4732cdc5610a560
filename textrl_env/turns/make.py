"""From what a user writes as `turns` to a function that makes turn environments."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of, shown
from textrl_env.turns.turn_env import TurnEnv


def make_turn_env_factory(value: Any) -> Callable[[], TurnEnv]:
    """A function that makes a new turn environment at each call.

    value: a callable, or the dotted path of one, `"package.module:Class"`. Raises ConfigError for anything else.
    """
    if callable(value):
        return value  # type: ignore[no-any-return]  # what it makes is checked when it is called
    module, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon:
        raise ConfigError(
            f"turns must be a callable that makes a turn environment, or its path 'package.module:Class'; got "
            f"{shown(value)}"
        )
    try:
        made = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ConfigError(f"turns {shown(value)} cannot be imported: {message_of(error)}") from error
    return make_turn_env_factory(made)
