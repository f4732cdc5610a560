"""What a person sees while an episode runs."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import numpy as np

from textrl_env.foreign_text import visible
from textrl_env.mdp import Episode
from textrl_env.tokenization import decode_response

RENDER_MODES = ("ansi", "human")
DIM, RESET = "\x1b[2m", "\x1b[0m"


class Renderer:
    """The prompt dimmed, the response after it, and the outcome once it has ended."""

    def __init__(self, tokenizer: Any, stream: TextIO | None = None):
        self._tokenizer, self._stream = tokenizer, stream
        self.start(np.array([], dtype=np.int64))

    def start(self, prompt_ids: np.ndarray) -> None:
        """Begin an episode."""
        self._prompt = decode_response(self._tokenizer, prompt_ids, after_text=False)
        self._ids: list[int] = []
        self._reward = 0.0
        self._outcome = ""
        self._printed = 0

    def add(self, token: int, reward: float, episodes: list[tuple[int, Episode]]) -> None:
        """Append a token, and the outcome where the episode has ended."""
        self._ids.append(token)
        self._reward += reward
        for _, episode in episodes:
            self._outcome = (
                f"\n[{episode.finish_reason}] score {episode.score:.3f}  kl {episode.kl_sum:.3f}  "
                f"return {self._reward:.3f}  tokens {len(self._ids)}\n"
            )

    def text(self) -> str:
        """The whole picture; decoded from all ids, so that multi-byte characters come out whole. Escape sequences that
        a prompt or the model wrote are shown and not obeyed.
        """
        response = visible(decode_response(self._tokenizer, self._ids))
        return f"{DIM}{visible(self._prompt)}{RESET}{response}{self._outcome}"

    def print_new(self) -> None:
        """Print what has come since the last call. An unfinished character waits for its last byte."""
        text = self.text()
        shown = len(text) if self._outcome else len(text.rstrip("\ufffd"))
        stream = self._stream or sys.stdout
        stream.write(text[self._printed : shown])
        stream.flush()
        self._printed = max(self._printed, shown)
