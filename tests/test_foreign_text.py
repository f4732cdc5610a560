"""Text that others wrote, on a terminal's terms; messages about values that have no text of their own."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import LONGEST_MESSAGE, message_of, shown, visible
from textrl_env.rewards import CompositeReward, LengthReward, make_reward

# Unicode's classes of embeddings, overrides, isolates and their ends; three marks have the classes of letters.
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
LETTER_MARKS = ("LEFT-TO-RIGHT MARK", "RIGHT-TO-LEFT MARK", "ARABIC LETTER MARK")


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_every_character_that_a_terminal_obeys_is_escaped_and_no_other() -> None:
    """CHECKS 57: all controls but tab and newline, bidi marks, other line ends, surrogates; over all of Unicode."""
    for code in range(0x110000):
        char = chr(code)
        obeyed = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\t\n"
        turns = unicodedata.bidirectional(char) in BIDI or unicodedata.name(char, "").endswith(LETTER_MARKS)
        assert (visible(char) != char) == (obeyed or turns), hex(code)
        if visible(char) != char:
            assert visible(char).isascii()
            assert visible(char).isprintable()


def test_visible_keeps_what_is_text() -> None:
    assert visible("\u975e\u5e38 \U0001f600\ta\nb [bold]") == "\u975e\u5e38 \U0001f600\ta\nb [bold]"
    assert visible("\x1b[31mred\r\x9b\x7f\u202e\ud800") == r"\x1b[31mred\r\x9b\x7f\u202e\ud800"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], "[1, 2]"),
        ("a" * 100, "'" + "a" * 76 + "..."),
        ("\x1b[2J", r"'\x1b[2J'"),
        pytest.param(10**5000, "a number of 16610 bits", id="5001 digits"),
        (NoText(), "<NoText that has no text form>"),
    ],
)
def test_shown(value: Any, expected: str) -> None:
    assert shown(value) == expected


def test_message_of() -> None:
    assert message_of(ValueError("\x1b[2J")) == r"\x1b[2J"
    assert message_of(NoText()) == "(its message cannot be shown)"
    assert len(message_of(ValueError("x" * 10**6))) == LONGEST_MESSAGE


@pytest.mark.parametrize(
    "name", ["x" * 10**6, "\ud800", 10**5000, NoText(), "a\0b"], ids=lambda name: type(name).__name__
)
def test_unknown_names_of_any_size_and_kind(name: Any) -> None:
    with pytest.raises(UnknownName, match=r"^unknown task .{1,200}\. Known: alpha, beta$"):
        raise UnknownName("task", name, ["alpha", "beta"])


@pytest.mark.parametrize(
    "text", ["x" * 5000, "x" * 5000 + ".py:f", "\ud800.py:f", "a\0b.py:f", "~nobody_/x.py:f", "\ud800"]
)
def test_reward_names_that_no_file_can_have(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used as a path: "):
        make_reward(text)


def test_numbers_of_five_thousand_digits() -> None:
    with pytest.raises(
        ConfigError, match=r"the weight of reward 'length' must be a finite number, got a number of [0-9]+ bits"
    ):
        CompositeReward([(LengthReward(), 10**5000)])
    with pytest.raises(ConfigError, match=r"target must be a whole number >= 1, got a number of [0-9]+ bits"):
        LengthReward(-(10**5000))
