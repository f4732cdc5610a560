"""What a reward is: one callable with TRL's signature, and two richer methods that it may also have.

A plain function is a reward as it is::

    def shorter(prompts, completions, **columns):
        return [-len(text) / 100 for text in completions]

and every reward here can be handed to TRL's trainers as it is: it is a callable with a `__name__` that takes
`prompts` and `completions` by keyword, ignores keywords it does not know (`completion_ids`, `trainer_state`,
data set columns), and returns a list of floats.

Text prompts come as `list[str]` with `list[str]` completions. Chat prompts come as in TRL: each prompt is a
list of `{"role": ..., "content": ...}` messages and each completion is a list with one assistant message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

Message = dict[str, Any]
Text = str | list[Message]


class Scores(NamedTuple):
    """The scores of n finished episodes."""

    scores: np.ndarray  # float64 [n]: what the environment pays at each episode's end
    parts: dict[str, np.ndarray]  # name -> float64 [n]: each component before its weight; {} if there is only one


@runtime_checkable
class Reward(Protocol):
    """Anything that scores finished responses. A function with this signature is a `Reward`.

    Two optional methods say more; the environment uses each where it is there (and is not None):

    `detailed(prompts, completions, **columns) -> Scores`
        The same scores together with their components, which the environment reports as
        `info["score_parts"]`.
    `score_tokens(prompts, completion_ids, **columns) -> list[float]`
        A per-token reward: the score of each row's *newest* token, given the response ids so far
        (`completion_ids[i][-1]` is that token). Called at every step for the rows that are still running. An
        episode's total score is its sequence score plus the sum of its token scores.
    """

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """Score n finished responses.

        Args:
            prompts: n texts, or n lists of chat messages.
            completions: n texts, or n lists with one assistant message.
            **columns: The prompts' other columns, n values each, and `completion_ids` (n lists of token ids).

        Returns:
            n finite numbers, in the order of the completions. Higher is better.
        """
        ...


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a completion in either form: a string, or TRL's list with an assistant message."""
    if isinstance(completion, str):
        return completion
    return "\n".join(str(message["content"]) for message in completion)


def reward_name(reward: object) -> str:
    """The name under which a reward appears in errors and logs: its `__name__`, or that of its class."""
    name = getattr(reward, "__name__", None)
    if name is None and hasattr(reward, "func"):  # functools.partial
        name = getattr(reward.func, "__name__", None)
    return str(name or type(reward).__name__)
