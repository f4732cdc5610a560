"""Text and values that others wrote, such as a model or a user's function, as messages and terminals can show them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

LONGEST_MESSAGE, LONGEST_NAMES = 2000, 300
# What a terminal obeys instead of showing it: C0 and C1 controls and DEL, but for tab and newline; marks that turn the
# reading direction around; other line ends than newline; and lone surrogates, which no file and no terminal can take.
_OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
CONTROLS = re.compile(f"[{_OBEYED}]")


def visible(text: str) -> str:
    """`text` with its control characters, bidi marks and lone surrogates as their escapes; tabs and newlines stay."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown(value: Any, limit: int = 80) -> str:
    """The `repr` of a value in at most `limit` characters.

    Never raises. The `repr` of a user's class may fail, and that of an integer of thousands of digits does.
    """
    if isinstance(value, int) and value.bit_length() > 4 * limit:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, (str, bytes)):
        value = value[: limit + 1]  # a text of many megabytes is not copied to show its beginning
    try:
        text = visible(repr(value))
    except Exception:
        text = f"<{type(value).__name__} that has no text form>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def names_shown(names: Iterable[Any]) -> str:
    """A sorted list of names, such as the keys of a mapping, each as `shown` has it."""
    listed = [shown(name) for name in names]
    text = f"[{', '.join(sorted(listed))}]"
    return text if len(text) <= LONGEST_NAMES else text[: LONGEST_NAMES - 4] + "...]"


def message_of(error: BaseException) -> str:
    """The message of an exception that foreign code raised, safe for a terminal; also where its `__str__` fails."""
    try:
        text = visible(str(error))
    except Exception:
        text = "(its message cannot be shown)"
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."
