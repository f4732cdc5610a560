"""What a person sees while an episode runs: its text in a terminal, or as a picture, which video recorders take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textrl_env.errors import MissingExtra
from textrl_env.foreign_text import visible
from textrl_env.text.tokenization import decode_response
from textrl_env.trajectory import Trajectory

RENDER_MODES = ("ansi", "human", "rgb_array")
DIM, RESET = "\x1b[2m", "\x1b[0m"
WIDTH, HEIGHT, MARGIN, FONT_SIZE, LINE_HEIGHT = 720, 480, 16, 18, 24
Colour = tuple[int, int, int]
GREY, BLACK, BLUE = (130, 130, 130), (0, 0, 0), (0, 70, 170)


class Renderer:
    """The prompt dimmed, the response after it, and the outcome once it has ended."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.start(np.array([], dtype=np.int64))

    def start(self, prompt_ids: np.ndarray) -> None:
        """Begin an episode."""
        self._prompt_ids = prompt_ids.tolist()
        self._ids: list[int] = []
        self._reward = 0.0
        self._outcome = ""
        self._printed = 0

    def add(self, ids: list[int], reward: float, episodes: list[tuple[int, Trajectory]]) -> None:
        """Append a token with what the environment wrote behind it, and the outcome where the episode has ended."""
        self._ids += ids
        self._reward += reward
        for _, episode in episodes:
            score = f"{episode.score:.3f}" if episode.score_pending is None else "pending"
            self._outcome = (
                f"\n[{episode.finish_reason}] score {score}  kl {episode.kl_sum:.3f}  "
                f"return {self._reward:.3f}  tokens {len(episode)}\n"
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
        print(text[self._printed : shown], end="", flush=True)
        self._printed = max(self._printed, shown)

    def state_dict(self) -> dict[str, Any]:
        """What is shown, as plain data."""
        return {name: value for name, value in vars(self).items() if name != "_tokenizer"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Show what `state_dict` was taken of."""
        vars(self).update(state)


def text_picture(parts: Sequence[tuple[str, Colour]]) -> np.ndarray:
    """Coloured pieces of one text, wrapped, on white; the newest lines where not all fit. uint8 [480, 720, 3].

    Raises MissingExtra where Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtra("plots", "pillow") from None
    font: Any = ImageFont.load_default(FONT_SIZE)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    lines = _wrapped(parts, font)[-((HEIGHT - 2 * MARGIN) // LINE_HEIGHT) :]
    for number, line in enumerate(lines):
        for x, letter, colour in line:
            draw.text((MARGIN + x, MARGIN + number * LINE_HEIGHT), letter, fill=colour, font=font)
    return np.array(image)


def _wrapped(parts: Sequence[tuple[str, Colour]], font: Any) -> list[list[tuple[float, str, Colour]]]:
    """Lines of (x, letter, colour)."""
    lines: list[list[tuple[float, str, Colour]]] = [[]]
    x = 0.0
    for text, colour in parts:
        for letter in text:
            width = font.getlength(letter) if letter.isprintable() else 0.0
            if letter == "\n" or x + width > WIDTH - 2 * MARGIN:
                lines.append([])
                x = 0.0
            if letter.isprintable():
                lines[-1].append((x, letter, colour))
                x += width
    return lines
