"""Find a hidden number by the hints: `Guess my number from 31 to 46.` `38` `Higher. From 39 to 46.` ...

Each hint says what is still possible, so the best reply follows from the last message: the middle. Four guesses find 15
of the 16 numbers that way. A guess at random among the possible ones finds about two thirds.

The number found pays 1. A wasted turn, of a number that was ruled out or of no number, costs 0.1. Hidden states are
pairs of a range and a number: 1,024, of which a quarter is held out.
"""

from __future__ import annotations

import re
from random import Random

from textrl_env.turns.game import Answer, Game
from textrl_env.turns.seeds import split_states

WIDTH = 16
LOWS = range(1, 65)
GUESSES = 4
WASTE = 0.1
NUMBER = re.compile(r"(?<![\w.-])[0-9]{1,6}(?![\w.]*\w)")
"""A whole number as a word of its own: digits, and no sign, point or letter at them."""

_STATES = split_states(
    ((low, number) for low in LOWS for number in range(low, low + WIDTH)), lambda state: f"{state[0]} {state[1]}"
)


def guessed_number(reply: str) -> int | None:
    """Read the one number that a reply names; None where it names none or several."""
    found = {int(number) for number in NUMBER.findall(reply)}
    return found.pop() if len(found) == 1 else None


class Guess(Game):
    """Guess a number within four turns."""

    def begin(self, rng: Random, split: str) -> str:
        """Hide a number in a range."""
        self.low, self.number = rng.choice(_STATES[split])
        self.high = self.low + WIDTH - 1
        return f"Guess my number from {self.low} to {self.high}."

    def answer(self, reply: str) -> Answer:
        """Say on which side of the guess the number is, and what is still possible."""
        guess = guessed_number(reply)
        if guess == self.number:
            return Answer("Yes!", {"found": 1.0}, is_over=True, success=True)
        wasted = guess is None or not self.low <= guess <= self.high
        parts = {"waste": -WASTE} if wasted else {}
        if guess is not None and not wasted:
            if guess < self.number:
                self.low = guess + 1
            else:
                self.high = guess - 1
        if self.turn == GUESSES:
            return Answer(f"It was {self.number}.", parts, is_over=True, success=False)
        hint = "No" if guess is None else "Higher" if guess < self.number else "Lower"
        return Answer(f"{hint}. From {self.low} to {self.high}.", parts)


TURNS = Guess
