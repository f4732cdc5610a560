"""What rewards that are made of others have in common: their parts' names and states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.rewards.protocol import as_measured, load_state_of, reward_name, state_of


class Parts:
    """A reward made of `rewards`, by name; those that have a state give and take it under their names."""

    rewards: dict[str, Callable[..., Any]]

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts that have one."""
        states = {name: state_of(part) for name, part in self.rewards.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ConfigError where the parts are others."""
        if state.keys() != self.state_dict().keys():
            raise ConfigError(f"the saved state is of the rewards {sorted(state)}, this one has {sorted(self.rewards)}")
        for name, each in state.items():
            load_state_of(self.rewards[name], each)

    def as_measured(self) -> Self:
        """The same of the parts as evaluations measure them."""
        twin = copy.copy(self)
        twin.rewards = {name: as_measured(part) for name, part in self.rewards.items()}
        return twin


def named_parts(given: Any, what: str) -> dict[str, Callable[..., Any]]:
    """Rewards of a list or a mapping by their names.

    In a list a reward's name is its `__name__`; one that comes again gets `_2`, `_3`, ... behind it. what: a part in
    words, for errors. Raises ConfigError where it is neither, or a part is not callable.
    """
    if isinstance(given, Mapping):
        named = {str(name): part for name, part in given.items()}
    elif isinstance(given, (list, tuple)):
        named = dict(zip(_unique([reward_name(part) for part in given]), given, strict=True))
    else:
        raise ConfigError(f"give each {what} in a list or a dict, got {type(given).__name__}")
    for part in named.values():
        if not callable(part):
            raise ConfigError(f"a {what} must be a reward, got {shown(part)}; make_reward makes rewards of names")
    return named


def _unique(names: list[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found
