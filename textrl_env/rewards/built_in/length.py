"""How near a response's length in words is to a target; for composites and first trials, since it needs no model."""

from __future__ import annotations

from typing import Any

from textrl_env.rewards.protocol import completion_text
from textrl_env.user_values import whole_number


class LengthReward:
    """-|words - target| / target: 0 at `target` words, -1 for an empty response, and ever lower for a long one.

    Words are what `str.split` gives.
    """

    __name__ = "length"

    def __init__(self, target: int = 20):
        self.target = whole_number("target", target)

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores <= 0."""
        counts = [len(completion_text(completion).split()) for completion in completions]
        return [-abs(count - self.target) / self.target for count in counts]


REWARD = LengthReward
