"""Whether a response is in the wanted language, by character statistics of 140 languages: no model, no download."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from textrl_env.errors import ConfigError, MissingExtra, UnknownName
from textrl_env.foreign_text import shown
from textrl_env.text.chat_text import completion_text
from textrl_env.user_values import check_names

MOST_CHARACTERS = 20_000
"""Only so much of a text is read."""
LEAST_LOG_PROB = -10.0
"""Where log-probabilities end, so that scores stay finite."""


class LanguageReward:
    """The probability that a response is in the wanted language, in [0, 1]; its logarithm, in [-10, 0], with `log`.

    The classifier is py3langid's (after Lui and Baldwin 2012, https://aclanthology.org/P12-3005). A text without
    letters, such as an empty one, has probability 0 (its logarithm is -10). A few words of the language repeated please
    it as well as good prose: add the reward `repetition`, or watch a gold score.

    language: an ISO 639-1 code such as "fr". None takes each prompt's own, from its column `language`.

    Raises UnknownName for a language that the classifier does not know, at a call also for one in the column;
    ConfigError where there is no such column, or `log` is neither true nor false; and MissingExtra without py3langid.
    """

    __name__ = "language"

    def __init__(self, language: str | None = None, log: bool = False) -> None:
        if not isinstance(log, bool):  # behind a name, "log=False" is a text, which counts as true
            raise ConfigError(f"log must be true or false, got {shown(log)}")
        self.language, self.log = language, log
        known = _places()
        if language is not None:
            check_names("language", [language], known)

    def __call__(
        self, prompts: list[Any], completions: list[Any], language: Sequence[str] | None = None, **columns: Any
    ) -> list[float]:
        """n scores in [0, 1], or in [-10, 0]."""
        wanted = language if self.language is None else [self.language] * len(completions)
        if wanted is None:
            raise ConfigError(
                "reward 'language' must know which language is wanted: make it with one, as in "
                "'language:language=fr', or give the prompts a column 'language'"
            )
        probs = [self._prob(completion_text(text), each) for text, each in zip(completions, wanted, strict=True)]
        if not self.log:
            return probs
        return [max(math.log(prob), LEAST_LOG_PROB) if prob > 0.0 else LEAST_LOG_PROB for prob in probs]

    def _prob(self, text: str, wanted: str) -> float:
        if not isinstance(wanted, str) or wanted not in _places():
            raise UnknownName("language", wanted, _places())
        text = text[:MOST_CHARACTERS]
        if not any(map(str.isalpha, text)):
            return 0.0  # the classifier knows nothing of it and would call every language as likely
        return min(float(dict(_identifier().rank(text))[wanted]), 1.0)

    def __repr__(self) -> str:
        return f"LanguageReward(language={self.language!r}, log={self.log})"


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtra("rewards", "py3langid") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)  # ships with the package


@functools.cache
def _places() -> frozenset[str]:
    """The codes that the classifier knows."""
    return frozenset(_identifier().labels)


REWARD = LanguageReward
