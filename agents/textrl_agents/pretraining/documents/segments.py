"""Cut a document into the pieces that are scored one by one: sentences, lines, or the document as a whole.

The pieces put together are the document. White space between two of them begins the second, as tokenizers have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from textrl_env.user_values import check_names

# What a sentence ends with: an end mark with quotes and brackets behind it, before white space; a full-width end mark;
# the last letter of a line.
_ENDS = re.compile(r"""[.!?…]["'”’)\]]*(?=\s)|[。！？]["”’」』）]*|\S(?=[^\S\n]*\n)""")


def _sentence_ends(text: str) -> list[int]:
    return [match.end() for match in _ENDS.finditer(text)]


def _line_ends(text: str) -> list[int]:
    return [match.end() for match in re.finditer(r"\n", text)]


SEGMENTS: Mapping[str, Callable[[str], list[int]]] = MappingProxyType(
    {"sentence": _sentence_ends, "line": _line_ends, "document": lambda text: []}
)
"""Name of a kind of piece -> where such pieces end in a text; the last one always ends with the text."""


def cut(text: str, segment: str) -> list[str]:
    """Cut a text into pieces, none of them blank; an end mark after "Mr" ends a sentence too.

    segment: a key of `SEGMENTS`. What is blank belongs to the piece before it. A blank text has no piece.
    """
    check_names("segment", [segment], SEGMENTS)
    pieces: list[str] = []
    start = 0
    for end in [*SEGMENTS[segment](text), len(text)]:
        piece, start = text[start:end], end
        if pieces and not piece.strip():
            pieces[-1] += piece
        elif pieces and not pieces[-1].strip():
            pieces[-1] += piece  # a text that begins with blank lines
        elif piece:
            pieces.append(piece)
    return pieces if text.strip() else []
