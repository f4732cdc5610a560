"""Environments of GEM (https://arxiv.org/abs/2510.01051) as turn environments: `gem:<id>`, such as
`gem:game:GuessTheNumber-v0-easy`.

GEM's signature is the one of turn environments. What is added is a random state of its own, since GEM seeds the global
one, and a course that can be saved.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import message_of
from textrl_env.turns.foreign.foreign_turns import ForeignTurns
from textrl_env.turns.game import TurnStep


def check_gem() -> None:
    """Raise ConfigError where GEM is not installed. It is no extra: its own requirements would move our pins."""
    if importlib.util.find_spec("gem") is None:
        raise ConfigError("gem is not installed. Add it with: pip install gem-llm")


class GemTurns(ForeignTurns):
    """One environment of GEM.

    environment: its id. Raises ConfigError where GEM is not installed or the environment cannot be made, and
    UnknownName where there is no such one.
    """

    def __init__(self, environment: str):
        check_gem()
        super().__init__(f"gem:{environment}")
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        with self._random.swapped():
            from gem.envs import registration
        root.handlers[:], root.level = handlers, level  # GEM sets up the process's logging when it is imported
        if environment not in registration.ENV_REGISTRY:
            raise UnknownName("environment of GEM", environment, registration.ENV_REGISTRY)
        self._registration, self._id = registration, environment
        self._env: Any = None

    def begin(self, seed: int) -> str:
        """Make the environment and return its first message."""
        try:
            self._env = self._registration.make(self._id)
        except Exception as error:
            raise ConfigError(f"{self.name} cannot be made: {type(error).__name__}: {message_of(error)}") from error
        first, _ = self._env.reset(seed=seed)
        return str(first)

    def answer(self, reply: str) -> TurnStep:
        """Play a reply."""
        text, reward, terminated, truncated, info = self._env.step(reply)
        return text, reward, bool(terminated), bool(truncated), dict(info)
