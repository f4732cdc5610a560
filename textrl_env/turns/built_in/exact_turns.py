"""Two turns small enough to be solved by enumeration: five tokens, three a turn, 7,225 courses to a prompt.

Letters are tokens. A turn's reply scores a point for every step forward in the alphabet, such as the "ab" and "bc" of
"abc"; the message before it counts as its start. The second message is the last letter of the first reply ("d" after an
empty one), so a reply that climbs high in the first turn leaves nothing to climb in the second: what is best in the
first turn is not what pays best there. Points of the second turn count double.

The turn environment is the same in every episode but for its first message, "a" or "b", which the seed decides. None is
held out: the task is about finding the optimum, see `textrl_env.tasks.enumeration`.
"""

from __future__ import annotations

import itertools
from random import Random

from textrl_env.turns.game import Answer, Game

LETTERS = "abcd"
STARTS = ("a", "b")
TURN_TOKENS = 3
LATER = 2.0
"""What a point of the second turn is worth."""


def steps_forward(text: str) -> int:
    """Count the pairs of adjacent letters that follow each other in the alphabet."""
    return sum(ord(after) - ord(before) == 1 for before, after in itertools.pairwise(text))


class ExactTurns(Game):
    """Climb the alphabet twice."""

    def begin(self, rng: Random, split: str) -> str:
        """Say the first letter."""
        self.said = STARTS[self.seed % len(STARTS)]
        return self.said

    def answer(self, reply: str) -> Answer:
        """Count the steps forward, and go on from the last letter."""
        points = steps_forward(self.said + reply)
        if self.turn == 2:
            return Answer("", {"second": LATER * points}, is_over=True, success=points > 0)
        self.said = reply[-1:] if reply[-1:] in LETTERS and reply else LETTERS[-1]
        return Answer(self.said, {"first": float(points)})


TURNS = ExactTurns
