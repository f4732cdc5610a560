"""A plain Python function as a reward: its signature checked up front, its running time limited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textrl_env.rewards.protocol import reward_name
from textrl_env.rewards.signature import accepted_columns, check_signature
from textrl_env.rewards.time_limit import TimeLimit


class FunctionReward:
    """A function with TRL's signature, `f(prompts, completions, **columns) -> list[float]`.

    It gets the columns that it has parameters for, or all of them if it has `**columns`. It runs in a worker
    thread so that one that hangs raises `RewardTimeout` after `timeout` seconds; the next call works again.
    `async def` functions are awaited.

    Args:
        function: Takes `prompts` and `completions` by keyword and returns one number per completion.
        name: Its name in errors and logs; by default the function's own.
        timeout: Seconds that one call may take; None for no limit.

    Raises:
        ConfigError: The function does not take `prompts` and `completions` by keyword, or the limit is not
            above 0.
    """

    def __init__(self, function: Callable[..., Any], *, name: str | None = None, timeout: float | None = 60.0):
        check_signature(function)
        self.__name__ = name or reward_name(function)
        self.function = function
        self._limit = TimeLimit(timeout, self.__name__)

    @property
    def timeout(self) -> float | None:
        """Seconds that one call may take."""
        return self._limit.seconds

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """What the function returns, unchecked (`score_episodes` checks); what it raises comes through."""
        taken = accepted_columns(self.function, columns, given=("prompts", "completions"))
        arguments = {"prompts": prompts, "completions": completions, **taken}
        scores: list[float] = self._limit.call(self.function, arguments, len(prompts))
        return scores

    def __repr__(self) -> str:
        return f"FunctionReward({self.__name__!r}, timeout={self.timeout})"
