"""Text as a picture, for `render_mode="rgb_array"`: what video recorders take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textrl_env.errors import MissingExtra

WIDTH, HEIGHT, MARGIN, FONT_SIZE = 720, 480, 16, 18
LINE_HEIGHT = 24
Colour = tuple[int, int, int]


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
