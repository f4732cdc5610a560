"""What a person sees while an episode runs."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import numpy as np

from textrl_env.foreign_text import visible
from textrl_env.text.picture import text_picture
from textrl_env.text.tokenization import decode_response
from textrl_env.trajectory import Trajectory

RENDER_MODES = ("ansi", "human", "rgb_array")
DIM, RESET = "\x1b[2m", "\x1b[0m"
GREY, BLACK, BLUE = (130, 130, 130), (0, 0, 0), (0, 70, 170)


class Renderer:
    """The prompt dimmed, the response after it, and the outcome once it has ended."""

    def __init__(self, tokenizer: Any, stream: TextIO | None = None):
        self._tokenizer, self._stream = tokenizer, stream
        self.start(np.array([], dtype=np.int64))

    def start(self, prompt_ids: np.ndarray) -> None:
        """Begin an episode."""
        self._prompt_ids = prompt_ids.tolist()
        self._ids: list[int] = []
        self._reward = 0.0
        self._outcome = ""
        self._printed = 0

    def add(self, token: int, reward: float, episodes: list[tuple[int, Trajectory]]) -> None:
        """Append a token, and the outcome where the episode has ended."""
        self._ids.append(token)
        self._reward += reward
        for _, episode in episodes:
            self._outcome = (
                f"\n[{episode.finish_reason}] score {episode.score:.3f}  kl {episode.kl_sum:.3f}  "
                f"return {self._reward:.3f}  tokens {len(self._ids)}\n"
            )

    def text(self) -> str:
        """All of it for a terminal."""
        prompt, response, outcome = self._parts()
        return f"{DIM}{prompt}{RESET}{response}{outcome}"

    def picture(self) -> np.ndarray:
        """All of it as uint8 [480, 720, 3]."""
        return text_picture(list(zip(self._parts(), (GREY, BLACK, BLUE), strict=True)))

    def _parts(self) -> tuple[str, str, str]:
        # Decoded from all ids, so that multi-byte characters come out whole. Escape sequences that a prompt or the
        # model wrote are shown and not obeyed.
        prompt = decode_response(self._tokenizer, self._prompt_ids, after_text=False)
        return visible(prompt), visible(decode_response(self._tokenizer, self._ids)), self._outcome

    def print_new(self) -> None:
        """Print what has come since the last call. An unfinished character waits for its last byte."""
        text = self.text()
        shown = len(text) if self._outcome else len(text.rstrip("\ufffd"))
        stream = self._stream or sys.stdout
        stream.write(text[self._printed : shown])
        stream.flush()
        self._printed = max(self._printed, shown)

    def state_dict(self) -> dict[str, Any]:
        """What is shown, as plain data."""
        return {name: value for name, value in vars(self).items() if name not in ("_tokenizer", "_stream")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Show what `state_dict` was taken of."""
        vars(self).update(state)
