"""How positive a response sounds, by VADER's lexicon and rules: fast, no model, and easily flattered."""

from __future__ import annotations

import functools
from typing import Any

from textrl_env.errors import MissingExtra
from textrl_env.text.chat_text import completion_text

MOST_BYTES = 4_000
"""Only so much of a text is read, in UTF-8: VADER's time grows with the square of the number of words, and an emoji, of
four bytes, becomes several words.
"""


class VaderReward:
    """VADER's compound score, in [-1, 1]: below 0 negative, 0 neutral or empty, above 0 positive.

    The sum of the words' valences, after its rules for negation, emphasis and "but", as s / sqrt(s^2 + 15) (Hutto and
    Gilbert 2014, https://doi.org/10.1609/icwsm.v8i1.14550). It nears 1 with a few strong words, so a policy that is
    trained on it alone may end in a list of them: watch a gold score, or add the reward `repetition`.

    Raises MissingExtra without the package vaderSentiment.
    """

    __name__ = "vader"

    def __init__(self) -> None:
        _analyzer()  # now rather than at the end of the first episode

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores in [-1, 1]."""
        return [compound(completion_text(completion)) for completion in completions]

    def __repr__(self) -> str:
        return "VaderReward()"


def compound(text: str) -> float:
    """VADER's compound score of a text. Raises MissingExtra without the package vaderSentiment."""
    beginning = text[:MOST_BYTES].encode(errors="ignore")[:MOST_BYTES].decode(errors="ignore")
    return float(_analyzer().polarity_scores(beginning)["compound"])


@functools.cache
def _analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise MissingExtra("rewards", "vaderSentiment") from None
    return SentimentIntensityAnalyzer()  # reads two word lists, once for all


REWARD = VaderReward
