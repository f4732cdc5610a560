"""A plain Python function as a reward: its signature checked up front, its running time limited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textrl_env.rewards.protocol import accepted_columns, check_signature, reward_name
from textrl_env.rewards.time_limit import TimeLimit


class FunctionReward:
    """A function with TRL's signature, `f(prompts, completions, **columns) -> list[float]`.

    It gets the columns that it has parameters for, or all of them if it has `**columns`. It runs in a worker thread, so
    that one that hangs raises `RewardTimeout` after `timeout` seconds; the next call works again. `async def` functions
    are awaited.

    function: takes `prompts` and `completions` by keyword and returns one number per completion.
    name: its name in errors and logs; by default the function's own.
    timeout: seconds that one call may take; None for no limit.

    Raises ConfigError where the function does not take these keywords, or the limit is not above 0.
    """

    _judged: ClassVar[str] = "completions"  # the keyword of what is scored

    def __init__(self, function: Callable[..., Any], *, name: str | None = None, timeout: float | None = 60.0):
        check_signature(function, self._judged)
        self.__name__ = name or reward_name(function)
        self.function = function
        self._limit = TimeLimit(timeout, self.__name__)

    @property
    def timeout(self) -> float | None:
        """Seconds that one call may take."""
        return self._limit.seconds

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """What the function returns, unchecked (`score_episodes` checks); what it raises comes through."""
        return self._scores(prompts, completions, columns)

    def _scores(self, prompts: list[Any], judged: list[Any], columns: dict[str, Any]) -> list[float]:
        given = {"prompts": prompts, self._judged: judged}
        taken = accepted_columns(self.function, columns, given=given)
        scores: list[float] = self._limit.call(self.function, {**given, **taken}, len(prompts))
        return scores

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__name__!r}, timeout={self.timeout})"


class TokenFunctionReward(FunctionReward):
    """A per-token reward, `f(prompts, completion_ids, **columns) -> list[float]`; its arguments are FunctionReward's.

    The function is called at every step with the response ids so far of the rows that are still running. It returns the
    score of each row's newest token, `completion_ids[i][-1]`. The sequence score at the end is 0, so an episode's total
    is the sum of its token scores. TRL's trainers have no per-token rewards and would see the zeros only.

    Raises ConfigError where the function does not take `prompts` and `completion_ids` by keyword.
    """

    _judged = "completion_ids"

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n zeros: everything was paid token by token."""
        return [0.0] * len(completions)

    def score_tokens(self, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        """The score of each row's newest token; what the function returns, unchecked."""
        return self._scores(prompts, completion_ids, columns)
