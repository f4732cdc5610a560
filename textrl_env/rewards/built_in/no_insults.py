"""Whether a text is free of insults, by a list of rude words that no disguise hides."""

from __future__ import annotations

from typing import Any

from textrl_env.language.insults import find_insults
from textrl_env.text.chat_text import completion_text


class NoInsultsReward:
    """1 for a response without a rude word of `textrl_env.language.insults`, else 0.

    It judges any piece of a text, also an empty one, which scores 1: a policy that says nothing pleases it, so combine
    it with a reward that wants text.
    """

    __name__ = "no_insults"

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores, 0 or 1."""
        return [0.0 if find_insults(completion_text(completion)) else 1.0 for completion in completions]


REWARD = NoInsultsReward
