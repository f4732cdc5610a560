"""The formats of the built-in tasks: how a prompt is written, and what the training text answers to it.

Each file is one format. The tasks take their prompts and words from here and the corpus its text, so a format is
written once and the embedded model knows it.

format.py       what a format is
phrases.py      templates, to write sentences with and to recognise them by
words.py        the words that several formats share
"""

from __future__ import annotations

from types import MappingProxyType

from textrl_env.language.format import Format
from textrl_env.language.formats.arithmetic import ARITHMETIC
from textrl_env.language.formats.code import CODE
from textrl_env.language.formats.detoxify import DETOXIFY
from textrl_env.language.formats.dialogue import DIALOGUE
from textrl_env.language.formats.question import QUESTION
from textrl_env.language.formats.recommend import RECOMMEND
from textrl_env.language.formats.story import STORY
from textrl_env.language.formats.summarize import SUMMARIZE
from textrl_env.language.formats.translate import TRANSLATE

FORMATS = MappingProxyType(
    {
        each.name: each
        for each in (ARITHMETIC, CODE, DETOXIFY, DIALOGUE, QUESTION, RECOMMEND, STORY, SUMMARIZE, TRANSLATE)
    }
)
"""Name of a task -> its format."""

__all__ = ["FORMATS", "Format"]
