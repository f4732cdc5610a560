"""Two small rewards that need no model: useful as parts of a composite, and to try things out."""

from __future__ import annotations

import math
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.rewards.protocol import completion_text


class LengthReward:
    """-|words - target| / target: 0 at `target` words, -1 for an empty response, falling without end beyond.

    Words are what `str.split` gives.
    """

    __name__ = "length"

    def __init__(self, target: int = 20):
        self.target = _whole_number("target", target)

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores <= 0."""
        counts = [len(completion_text(completion).split()) for completion in completions]
        return [-abs(count - self.target) / self.target for count in counts]


class RepetitionReward:
    """-(the share of word n-grams that are repeats): 0 where none comes twice, near -1 for one phrase over
    and over.

    1 - distinct / all n-grams, the complement of distinct-n (Li et al. 2016,
    https://arxiv.org/abs/1510.03055). Case is ignored; a response of fewer than n words scores 0.
    """

    __name__ = "repetition"

    def __init__(self, n: int = 3):
        self.n = _whole_number("n", n)

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores in (-1, 0]."""
        return [self._score(completion_text(completion).lower().split()) for completion in completions]

    def _score(self, words: list[str]) -> float:
        grams = [tuple(words[start : start + self.n]) for start in range(len(words) - self.n + 1)]
        return len(set(grams)) / len(grams) - 1.0 if grams else 0.0


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value < math.inf:
        raise ConfigError(f"{name} must be a whole number >= 1, got {shown(value)}")
    return int(value)
