"""How often a response repeats itself; for composites and first trials, since it needs no model."""

from __future__ import annotations

from typing import Any

from textrl_env.text.chat_text import completion_text
from textrl_env.user_values import whole_number


class RepetitionReward:
    """Minus the share of word n-grams that are repeats: 0 where none comes twice, near -1 for one phrase over and over.

    1 - distinct / all n-grams, the complement of distinct-n (Li et al. 2016,
    https://arxiv.org/abs/1510.03055). Case is ignored; a response of fewer than n words scores 0.
    """

    __name__ = "repetition"

    def __init__(self, n: int = 3):
        self.n = whole_number("n", n)

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores in (-1, 0]."""
        return [self._score(completion_text(completion).lower().split()) for completion in completions]

    def _score(self, words: list[str]) -> float:
        grams = [tuple(words[start : start + self.n]) for start in range(len(words) - self.n + 1)]
        return len(set(grams)) / len(grams) - 1.0 if grams else 0.0

    def __repr__(self) -> str:
        return f"RepetitionReward(n={self.n})"


REWARD = RepetitionReward
