"""Hashed n-grams of a text as features: no vocabulary, no model, nothing to download."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any, ClassVar

from textrl_env.errors import ConfigError, MissingExtra
from textrl_env.foreign_text import shown
from textrl_env.text.chat_text import completion_text, prompt_text
from textrl_env.user_values import whole_number

ANALYZERS = ("word", "char", "char_wb")
# Words, and each mark of punctuation; scikit-learn's own pattern drops both marks and words of one letter.
_TOKENS = r"(?u)\w+|[^\w\s]"


class HashedNgrams:
    """Signed counts of a response's n-grams, hashed into buckets and scaled to length 1 (scikit-learn's
    HashingVectorizer, which has no state).

    buckets: features a text has. ngrams: the least and greatest n. analyzer: "word", "char", or "char_wb" (characters
    within words). with_prompt: the prompt's n-grams come first, in as many buckets again; a comparison of two responses
    to one prompt learns nothing from them, a regression may.

    Raises ConfigError for an argument that cannot work, and MissingExtra where scikit-learn is not installed.
    """

    kind: ClassVar[str] = "hashed_ngrams"

    def __init__(
        self,
        buckets: int = 2**16,
        ngrams: tuple[int, int] | list[int] = (1, 2),
        analyzer: str = "word",
        with_prompt: bool = False,
    ):
        self.buckets = whole_number("buckets", buckets)
        if not isinstance(ngrams, (tuple, list)) or len(ngrams) != 2:
            raise ConfigError(f"ngrams must be the least and greatest n, such as (1, 2), got {shown(ngrams)}")
        self.ngrams = (whole_number("ngrams", ngrams[0]), whole_number("ngrams", ngrams[1]))
        if self.ngrams[0] > self.ngrams[1]:
            raise ConfigError(f"the least n of ngrams must not exceed the greatest, got {shown(ngrams)}")
        if analyzer not in ANALYZERS:
            raise ConfigError(f"analyzer must be one of {', '.join(ANALYZERS)}, got {shown(analyzer)}")
        if not isinstance(with_prompt, bool):
            raise ConfigError(f"with_prompt must be True or False, got {shown(with_prompt)}")
        if importlib.util.find_spec("sklearn") is None:
            raise MissingExtra("rewards", "scikit-learn")
        self.analyzer, self.with_prompt = analyzer, with_prompt
        self.size = self.buckets * (2 if with_prompt else 1)

    def __call__(self, prompts: list[Any], completions: list[Any]) -> Any:
        """SciPy CSR float32 [n, size]."""
        counts = self._vectorizer.transform([_utf8(completion_text(completion)) for completion in completions])
        if self.with_prompt:
            from scipy.sparse import hstack

            asked = self._vectorizer.transform([_utf8(prompt_text(prompt)) for prompt in prompts])
            counts = hstack([asked, counts], format="csr")
        return counts

    def save(self, folder: Path) -> dict[str, Any]:
        """No files; the arguments."""
        names = ("buckets", "analyzer", "with_prompt")
        return {"kind": self.kind, "ngrams": list(self.ngrams), **{name: getattr(self, name) for name in names}}

    @functools.cached_property
    def _vectorizer(self) -> Any:
        import numpy as np
        from sklearn.feature_extraction.text import HashingVectorizer  # takes a second: only when it is used

        return HashingVectorizer(
            n_features=self.buckets,
            ngram_range=self.ngrams,
            analyzer=self.analyzer,
            token_pattern=_TOKENS if self.analyzer == "word" else None,
            dtype=np.float32,
        )

    def __repr__(self) -> str:
        return f"HashedNgrams({self.buckets}, ngrams={self.ngrams}, analyzer={self.analyzer!r})"


def _utf8(text: str) -> str:
    """The text without lone surrogates, which cannot be hashed."""
    return text.encode("utf-8", "replace").decode("utf-8")
