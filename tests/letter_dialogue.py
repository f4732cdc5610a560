"""A task of several turns over the letters of task "exact", for tests: small enough to run by plain loops."""

from __future__ import annotations

import functools
import itertools
from random import Random
from typing import Any, NamedTuple

from textrl_env.tasks import Task
from textrl_env.tasks.built_in.exact import letter_model
from textrl_env.turns import PlainBridge

TURN_TOKENS, TURNS = 3, 3


class LetterDialogue:
    """Answers "da", "e" or nothing, by the last letter it is told; a turn scores its steps forward in the alphabet."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.last, self.turn = Random(seed).choice("ac"), 0
        return self.last, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        text = self.last + action
        forward = sum(ord(b) - ord(a) == 1 for a, b in itertools.pairwise(text))
        reply = {"b": "da", "c": "e"}.get(text[-1], "")
        self.last = (text + reply)[-1]
        over = self.turn == TURNS
        return reply, float(forward), over, False, {"success": forward > 0} if over else {}

    def get_state(self) -> list[Any]:
        return [self.last, self.turn]

    def set_state(self, state: list[Any]) -> None:
        self.last, self.turn = state


def letter_dialogue(turns: Any = LetterDialogue, **given: Any) -> Task:
    """The task; room for all turns and replies."""
    arguments: dict[str, Any] = {
        "model": letter_model,
        "bridge": functools.partial(PlainBridge, before="", after=""),
        "kl_coef": 0.5,
        "max_prompt_tokens": 1,
        "max_new_tokens": 15,
        "max_turn_tokens": TURN_TOKENS,
        **given,
    }
    return Task("letter dialogue", turns=turns, **arguments)


class Replayed(NamedTuple):
    """An episode played again."""

    paid: list[float]  # for each action
    answer: list[int]  # ids that follow the last token, where it ends a turn


def replayed(ids: list[int], is_action: list[bool]) -> Replayed:
    """Play the dialogue again over an episode's tokens: letters are 0 to 4, EOS is 5.

    Checks that what stands between the turns is what the dialogue answers.
    """
    game = LetterDialogue()
    game.last, game.turn = "abcde"[ids[0]], 0
    paid: list[float] = []
    told: list[int] = []
    place = 1
    while place < len(ids):
        assert is_action[place], f"a sampled token was expected at {place} of {ids}"
        told.append(ids[place])
        place += 1
        if told[-1] != 5 and len(told) < TURN_TOKENS:
            paid.append(0.0)
            continue
        reply, score, over, _, _ = game.step("".join("abcde"[token] for token in told if token != 5))
        paid.append(score)
        told = []
        wanted = ["abcde".index(letter) for letter in reply]
        if place == len(ids):
            return Replayed(paid, [] if over else wanted)
        if not over:
            assert ids[place : place + len(wanted)] == wanted
            assert not any(is_action[place : place + len(wanted)])
            place += len(wanted)
    return Replayed(paid, [])
