"""The rules of an episode of several turns: what answers, how text becomes ids, and the limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.turns.bridge import Bridge
from textrl_env.turns.turn_env import TurnEnv
from textrl_env.user_values import check_whole

SECONDS = 60.0
WORKERS = 8


@dataclass(frozen=True, eq=False)
class TurnRules:
    """What every row of an environment with turns has in common.

    make: gives a turn environment; called once a row. bridge: from text to ids and back.
    max_turns: turns of the policy after which an episode ends. max_turn_tokens: tokens after which a turn ends.
    system_prompt: the system message; None takes the turn environment's own, where it has one.
    truncates: whether an opening longer than the limit loses its oldest tokens, or is refused.
    timeout: seconds for each answer; None for no limit. workers: turn environments that are asked at the same time.
    """

    make: Callable[[], TurnEnv]
    bridge: Bridge
    max_turns: int
    max_turn_tokens: int
    system_prompt: str | None = None
    truncates: bool = True
    timeout: float | None = SECONDS
    workers: int = WORKERS

    def __post_init__(self) -> None:
        if not callable(self.make):
            raise ConfigError(f"turns must be a callable that makes a turn environment, got {shown(self.make)}")
        for name in ("max_turns", "max_turn_tokens"):
            check_whole(name, getattr(self, name), 1)
        check_whole("turn_workers", self.workers, 1)
        is_number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if self.timeout is not None and not (is_number and 0 < self.timeout < 2**31):
            raise ConfigError(
                f"turn_timeout must be a number of seconds above 0, or None for no limit; got {shown(self.timeout)}"
            )

    @property
    def is_chat(self) -> bool:
        """Whether the rewards get the episode as chat messages, or as one text."""
        return bool(getattr(self.bridge, "chat", True))
