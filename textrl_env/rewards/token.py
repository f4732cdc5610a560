"""A function that scores every token as it is generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textrl_env.rewards.protocol import reward_name
from textrl_env.rewards.signature import EXPECTED_TOKENS, accepted_columns, check_signature
from textrl_env.rewards.time_limit import TimeLimit


class TokenFunctionReward:
    """A per-token reward, `f(prompts, completion_ids, **columns) -> list[float]`.

    The function is called at every step with the response ids so far of the rows that are still running, and
    returns the score of each row's newest token, `completion_ids[i][-1]`. The sequence score at the end is 0,
    so an episode's total is the sum of its token scores. TRL's trainers have no per-token rewards and would
    see the zeros only.

    Args:
        function: Takes `prompts` and `completion_ids` by keyword and returns one number per row.
        name: Its name in errors and logs; by default the function's own.
        timeout: Seconds that one call may take; None for no limit.

    Raises:
        ConfigError: The function does not take `prompts` and `completion_ids` by keyword, or the limit is not
            above 0.
    """

    def __init__(self, function: Callable[..., Any], *, name: str | None = None, timeout: float | None = 60.0):
        check_signature(function, ("prompts", "completion_ids"), expected=EXPECTED_TOKENS)
        self.__name__ = name or reward_name(function)
        self.function = function
        self._limit = TimeLimit(timeout, self.__name__)

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n zeros: everything was paid token by token."""
        return [0.0] * len(completions)

    def score_tokens(self, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        """The score of each row's newest token; what the function returns, unchecked."""
        taken = accepted_columns(self.function, columns, given=("prompts", "completion_ids"))
        arguments = {"prompts": prompts, "completion_ids": completion_ids, **taken}
        scores: list[float] = self._limit.call(self.function, arguments, len(prompts))
        return scores

    def __repr__(self) -> str:
        return f"TokenFunctionReward({self.__name__!r})"
