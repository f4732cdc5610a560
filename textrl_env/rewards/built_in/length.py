"""A response's length in words, for composites and to try things out: it needs no model."""

from __future__ import annotations

from typing import Any

from textrl_env.text.chat_text import completion_text
from textrl_env.user_values import whole_number


class LengthReward:
    """-|words - target| / target: 0 at `target` words, -1 for an empty response, falling without end beyond.

    Words are what `str.split` gives.
    """

    __name__ = "length"

    def __init__(self, target: int = 20):
        self.target = whole_number("target", target)

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores <= 0."""
        counts = [len(completion_text(completion).split()) for completion in completions]
        return [-abs(count - self.target) / self.target for count in counts]

    def __repr__(self) -> str:
        return f"LengthReward(target={self.target})"


REWARD = LengthReward
