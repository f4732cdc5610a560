"""Stop strings: ending a response as soon as its text contains one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.text.tokenization import decode_response, decode_responses


class StopStrings:
    """Finds stop strings in growing responses, decoding only where a new token could complete one.

    strings: texts that end a response; the text that contains it stays as it was generated.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any, known: np.ndarray):
        if (
            isinstance(strings, str)
            or not isinstance(strings, Sequence)
            or not all(isinstance(text, str) and text for text in strings)
        ):
            raise ConfigError(f"stop must be a list of non-empty strings, got {shown(strings)}")
        for text in strings:
            if any("\ud800" <= char <= "\udfff" for char in text):
                raise ConfigError(f"the stop string {shown(text)} holds half a character, which no model can write")
        self.strings, self._tokenizer = tuple(strings), tokenizer
        self._completes = np.zeros(len(known), dtype=bool)
        if self.strings:
            ids = np.flatnonzero(known)
            last = {text[-1] for text in self.strings}
            for token, text in zip(ids, decode_responses(tokenizer, [[int(i)] for i in ids]), strict=True):
                # A piece of a multi-byte character shows as U+FFFD: what it completes cannot be told from it alone.
                self._completes[token] = "\ufffd" in text or not last.isdisjoint(text)
            # A token spells at least one byte, so this many tokens hold every occurrence that the newest one ends.
            self._window = max(len(text.encode()) for text in self.strings) + 4

    def hit(self, tokens: np.ndarray, responses: Sequence[np.ndarray]) -> np.ndarray:
        """bool [n]: whether the newest of `tokens` [n] completes a stop string of its response (ids, newest last)."""
        hits: np.ndarray = self._completes[tokens]
        for row in np.flatnonzero(hits).tolist():
            tail = decode_response(self._tokenizer, responses[row][-self._window :])
            hits[row] = any(text in tail for text in self.strings)
        return hits
