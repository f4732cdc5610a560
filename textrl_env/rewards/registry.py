"""Names for rewards: how a reward gets one, and what the built-in ones are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.rewards.protocol import Reward
from textrl_env.rewards.text_rules import LengthReward, RepetitionReward


def _embedded(**kwargs: Any) -> Reward:
    from textrl_env.assets import asset_folder
    from textrl_env.rewards.classifier import ClassifierReward  # imports torch: only when it is used

    return ClassifierReward(asset_folder("reward"), **kwargs)


_factories: dict[str, Callable[..., Reward]] = {
    "embedded": _embedded,
    "length": LengthReward,
    "repetition": RepetitionReward,
}
_BUILT_IN = dict(_factories)


def register_reward(name: str, factory: Callable[..., Reward]) -> None:
    """Let `make_reward(name, **kwargs)` give `factory(**kwargs)`. A name that is taken is replaced.

    Raises:
        ConfigError: The name is empty or could be taken for a path, or the factory is not callable.
    """
    if not isinstance(name, str) or not name or any(mark in name for mark in "/\\:"):
        raise ConfigError(f"a reward's name must be a text without '/', '\\' and ':', got {name!r}")
    if not callable(factory):
        raise ConfigError(f"the factory of reward {name!r} must be callable, got {type(factory).__name__}")
    _factories[name] = factory


def registered_rewards() -> list[str]:
    """The names that `make_reward` knows, sorted."""
    return sorted(_factories)


def is_built_in(name: Any) -> bool:
    """Whether every process knows `name` for the same reward, and not only this one, which registered it."""
    return isinstance(name, str) and name in _BUILT_IN and _factories[name] is _BUILT_IN[name]


def make_registered(name: str, **kwargs: Any) -> Reward:
    """The reward registered as `name`.

    Raises:
        UnknownName: None is; the message suggests the nearest.
        ConfigError: Its factory does not take these arguments.
    """
    if name not in _factories:
        raise UnknownName("reward", name, _factories)
    try:
        return _factories[name](**kwargs)
    except TypeError as error:
        if not kwargs:
            raise
        raise ConfigError(f"reward {name!r} does not take the arguments {sorted(kwargs)}: {error}") from error
