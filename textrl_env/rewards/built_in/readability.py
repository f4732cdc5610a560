"""How easy a response is to read, by formulas that need neither a model nor a download."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from textrl_env.errors import ConfigError, MissingExtra
from textrl_env.foreign_text import shown
from textrl_env.text.chat_text import completion_text
from textrl_env.user_values import check_names, finite_number, whole_number

MOST_CHARACTERS = 20_000
"""Only so much of a text is read."""


class _Formula(NamedTuple):
    """A method of textstat and the values between which the score falls from 1 to 0."""

    method: str
    easy: float
    hard: float


FORMULAS = {
    "ari": _Formula("automated_readability_index", 4.0, 16.0),  # school grades of the United States
    "coleman_liau": _Formula("coleman_liau_index", 4.0, 16.0),  # the same
    "lix": _Formula("lix", 25.0, 60.0),  # below 30 are children's books, above 60 is officialese; in any language
}
"""Those of textstat that count letters, words and sentences alone. The others count syllables, for which textstat
downloads a dictionary while it runs.
"""


class ReadabilityReward:
    """1 for a text as easy as `easy`, 0 for one as hard as `hard`, linear between; 0 below `words` words.

    formula: "ari", the automated readability index (Smith and Senter 1967, AMRL-TR-66-220); "coleman_liau" (Coleman and
        Liau 1975, https://doi.org/10.1037/h0076540); or "lix" (Bjornsson 1968).
    easy, hard: values of the formula, where lower is easier; by default those in `FORMULAS`.
    words: fewer are no text: the formulas call an empty one the easiest of all.

    Raises ConfigError for another formula, or where `easy` is not below `hard`; and MissingExtra without textstat.
    """

    __name__ = "readability"

    def __init__(
        self, formula: str = "ari", easy: float | None = None, hard: float | None = None, words: int = 10
    ) -> None:
        check_names("formula of readability", [formula], FORMULAS)
        known = FORMULAS[formula]
        self.formula = formula
        self.easy = known.easy if easy is None else finite_number("easy", easy)
        self.hard = known.hard if hard is None else finite_number("hard", hard)
        if not self.easy < self.hard:
            raise ConfigError(f"easy must be below hard, got easy={shown(self.easy)} and hard={shown(self.hard)}")
        self.words = whole_number("words", words)
        _statistics()  # now rather than at the end of the first episode

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores in [0, 1]."""
        return [self._score(completion_text(completion)[:MOST_CHARACTERS]) for completion in completions]

    def _score(self, text: str) -> float:
        if len(text.split()) < self.words:
            return 0.0
        level = float(getattr(_statistics(), FORMULAS[self.formula].method)(text))
        return min(max((self.hard - level) / (self.hard - self.easy), 0.0), 1.0)

    def __repr__(self) -> str:
        return f"ReadabilityReward({self.formula!r}, easy={self.easy:g}, hard={self.hard:g}, words={self.words})"


@functools.cache
def _statistics() -> Any:
    try:
        import textstat
    except ImportError:
        raise MissingExtra("rewards", "textstat") from None
    return textstat.textstat


REWARD = ReadabilityReward
