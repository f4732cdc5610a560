"""Do a sum, with a calculator at hand: `What is 12 + 7?` `<call> 12 + 7 </call>` `19` `19`.

The sums are those of the task `arithmetic`, held out in the same way: 12 + 7 and 7 + 12 are one item, and no held-out
item is trained on. A reply that calls is answered by the value. Any other reply is the answer: it pays 1 for the right
number alone, 0.1 for another number, 0 for anything else. A call costs nothing, and two may be made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from textrl_env.language.expressions import read_expression
from textrl_env.turns.game import Answer, Game
from textrl_env.turns.seeds import split_states
from textrl_env.turns.tools import Tool, ToolTurns

FORM = 0.1
"""The reward of a well-formed number that is not the right one."""
MOST_CALLS = 2
INSTRUCTIONS = "You can calculate: <call> 4 * 5 </call>"
NUMBER = re.compile(r"0|-?[1-9][0-9]*")


def sums() -> Iterator[tuple[int, str, int]]:
    """Every sum of the task `arithmetic`, in both orders."""
    for sign, numbers in (("+", range(1, 13)), ("-", range(1, 13)), ("*", range(2, 7))):
        for left in numbers:
            for right in numbers:
                if sign != "-" or left >= right:
                    yield left, sign, right


def _item(state: tuple[int, str, int]) -> str:
    first, second = sorted((state[0], state[2]))
    return f"{first} {state[1]} {second}"


STATES = split_states(sums(), _item)


def calculate(expression: str) -> str:
    """Calculate the value of an expression.

    Args:
        expression: whole numbers with + - * / and parentheses, such as 4 * 5
    """
    read = read_expression(expression)
    if read is None:
        raise ValueError("this is no expression of numbers")
    if read.value is None:
        raise ZeroDivisionError("division by zero")
    return str(read.value)


class Sum(Game):
    """Answer a sum in one reply."""

    def begin(self, rng: Random, split: str) -> str:
        """Ask for a sum of the split."""
        return self.ask(*rng.choice(STATES[split]))

    def ask(self, left: int, sign: str, right: int) -> str:
        """Ask for this sum."""
        self.sum = left, sign, right
        self.value = left + right if sign == "+" else left - right if sign == "-" else left * right
        return f"What is {left} {sign} {right}?"

    def answer(self, reply: str) -> Answer:
        """Judge the number."""
        written = reply.strip()
        if written == str(self.value):
            return Answer("Right.", {"right": 1.0}, is_over=True, success=True)
        parts = {"form": FORM} if NUMBER.fullmatch(written) else {}
        return Answer(f"It is {self.value}.", parts, is_over=True, success=False)


class Calculator(ToolTurns):
    """`Sum` with a calculator."""

    def __init__(self) -> None:
        tool = Tool(calculate, timeout=None)  # its work is bounded for any text
        self.asked = Sum()
        super().__init__(self.asked, [tool], most_calls=MOST_CALLS, instructions=INSTRUCTIONS)


TURNS = Calculator
