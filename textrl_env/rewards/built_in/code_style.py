"""How well the Python code in a response keeps to PEP 8. The code is read and never run."""

from __future__ import annotations

import ast
import functools
import re
import threading
import warnings
from typing import Any

from textrl_env.errors import MissingExtra
from textrl_env.text.chat_text import completion_text
from textrl_env.user_values import whole_number

MOST_CHARACTERS = 20_000
"""Longer code scores 0 unread."""
_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_lock = threading.Lock()


class CodeStyleReward:
    """1 - the errors that pycodestyle finds for each line of code, and never below 0.

    The code is what stands in the response's first Markdown fence, or the whole response where it has none; blank lines
    do not count as lines. A text that is no Python, or has no statement (an empty one, a comment), scores 0. So does
    one that is too long or nested too deep to be read, or that a check of pycodestyle fails on.

    max_line_length: as pycodestyle takes it. Its other settings are its defaults, whatever configuration files say.

    Raises ConfigError where that is no whole number >= 1, and MissingExtra without pycodestyle.
    """

    __name__ = "code_style"

    def __init__(self, max_line_length: int = 79) -> None:
        self.max_line_length = whole_number("max_line_length", max_line_length)
        _options(self.max_line_length)  # now rather than at the end of the first episode

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores in [0, 1]."""
        return [self._score(code_of(completion_text(completion))) for completion in completions]

    def _score(self, code: str) -> float:
        if not has_statements(code):
            return 0.0
        import pycodestyle

        lines = re.split(r"(?<=\n)", code if code.endswith("\n") else code + "\n")[:-1]
        options = _options(self.max_line_length)
        checker = pycodestyle.Checker(lines=lines, options=options, report=pycodestyle.BaseReport(options))
        try:
            errors = int(checker.check_all())
        except Exception:  # such as an IndexError on a line that is the letter "u" alone
            return 0.0
        return max(1.0 - errors / sum(bool(line.strip()) for line in lines), 0.0)

    def __repr__(self) -> str:
        return f"CodeStyleReward(max_line_length={self.max_line_length})"


def code_of(text: str) -> str:
    """The code in a response: its first Markdown fence, or all of it; line ends are "\\n"."""
    fenced = _FENCED.search(text)
    code = text if fenced is None else fenced[1]
    return code.replace("\r\n", "\n").strip("\n")


def has_statements(code: str) -> bool:
    """Whether the code is Python with at least one statement. It is parsed and not run."""
    if len(code) > MOST_CHARACTERS or "\r" in code or "\f" in code:
        return False  # a line of its own to Python, and not to pycodestyle
    try:
        with _lock, warnings.catch_warnings():  # of odd escapes in strings; the filters are the process's
            warnings.simplefilter("ignore")
            return bool(ast.parse(code).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MemoryError: nested too deep
        return False


@functools.cache
def _options(max_line_length: int) -> Any:
    try:
        import pycodestyle
    except ImportError:
        raise MissingExtra("rewards", "pycodestyle") from None
    # Each setting is given: pycodestyle takes those that are not from a file in the user's home.
    return pycodestyle.StyleGuide(
        select=(),
        ignore=tuple(pycodestyle.DEFAULT_IGNORE.split(",")),
        max_line_length=max_line_length,
        max_doc_length=None,
        indent_size=4,
        hang_closing=False,
        quiet=2,
        verbose=0,
    ).options


REWARD = CodeStyleReward
