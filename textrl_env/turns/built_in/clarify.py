"""Find out what a customer wants, then recommend: `What shall I buy?` `What do you like?` `I like tea things: ...` ...

A customer likes one of six groups of things, has three of its eight already, and says so when asked. The policy may ask
what the customer likes and what the customer has; a reply without a question mark recommends, and ends the episode. It
pays the share of three things named that are of the group and not yet owned. A question costs 0.05, and one that the
customer does not understand 0.1. So asking both pays 0.9 at best, asking for the group alone 0.95 * 5/8, and guessing
next to nothing: the policy must learn to clarify. There are four turns.

Hidden states are groups with three things owned: 336, of which a quarter is held out.
"""

from __future__ import annotations

import itertools
import re
from random import Random

from textrl_env.language.goods import GROUP_OF, GROUPS
from textrl_env.language.phrases import words_of
from textrl_env.turns.game import Answer, Game
from textrl_env.turns.seeds import split_states

OWNED, NAMED, MOST_TURNS = 3, 3, 4
QUESTION, NOT_UNDERSTOOD = 0.05, 0.1
_LIKES = frozenset({"like", "likes", "want", "prefer", "love", "interests", "hobby", "hobbies", "group"})
_HAS = frozenset({"have", "has", "own", "owns", "got", "already"})
_SEPARATORS = re.compile(r"[,.;!\n]|\band\b")

_STATES = split_states(
    ((group, owned) for group, items in GROUPS.items() for owned in itertools.combinations(items, OWNED)),
    lambda state: f"{state[0]}: {', '.join(state[1])}",
)


def named_things(reply: str) -> list[str]:
    """List what stands between the separators of a reply, in lower case and in order."""
    return [thing for part in _SEPARATORS.split(reply.lower()) if (thing := " ".join(words_of(part)))]


class Clarify(Game):
    """Recommend three things to a customer who answers questions."""

    def begin(self, rng: Random, split: str) -> str:
        """Draw a customer."""
        self.group, self.owned = rng.choice(_STATES[split])
        self.has_told_group = False
        self.shelf = rng.sample(GROUPS[self.group], len(GROUPS[self.group]))
        return "What three things shall I buy? You may ask what I like and what I have."

    def answer(self, reply: str) -> Answer:
        """Answer a question, or judge the recommendation."""
        if "?" in reply:
            text, cost = self._told(set(words_of(reply)))
            is_over = self.turn == MOST_TURNS
            return Answer(text, {"question": -cost}, is_over=is_over, success=False if is_over else None)
        named = named_things(reply)
        good = {thing for thing in named if GROUP_OF.get(thing) == self.group and thing not in self.owned}
        score = len(good) / max(NAMED, len(named))
        return Answer("Thank you.", {"recommended": score}, is_over=True, success=score == 1.0)

    def _told(self, asked: set[str]) -> tuple[str, float]:
        told = []
        if asked & _LIKES:
            self.has_told_group = True
            told.append(f"I like {self.group} things: {', '.join(self.shelf)}.")
        if asked & _HAS:
            told.append(f"I have {', '.join(thing for thing in self.shelf if thing in self.owned)}.")
        return (" ".join(told), QUESTION) if told else ("I do not understand.", NOT_UNDERSTOOD)


TURNS = Clarify
