"""`Game`, the base of a turn environment whose course follows from its seed and the replies alone.

It checks what it is given, counts turns, and can be saved: its state is its seed and the replies so far, which are
played again when it is restored. The built-in turn environments are games. Yours may be one too, and need not be.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from textrl_env.errors import ConfigError, InvalidAction, ResetNeeded
from textrl_env.foreign_text import shown
from textrl_env.turns.seeds import drawn_seed, split_of
from textrl_env.user_values import check_seed

TurnStep = tuple[str, float, bool, bool, dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What a game answers to a reply.

    text: the next message; one that ends the episode is shown to nobody but a reader. parts: name -> a part of this
        turn's reward, which is their sum. is_over: whether the episode ends. success: whether it ended well; None where
        it goes on. role: who says the text, "user" or "tool".
    """

    text: str
    parts: Mapping[str, float] = field(default_factory=dict)
    is_over: bool = False
    success: bool | None = None
    role: str = "user"


class Game(ABC):
    """A turn environment that draws its hidden state from a seed and answers replies by rules.

    A subclass writes `begin` and `answer`. Neither may use any randomness but the given generator's, nor the time.
    """

    system_prompt: str | None = None

    def __init__(self) -> None:
        self._seed: int | None = None
        self._replies: list[str] = []
        self._over = False

    @abstractmethod
    def begin(self, rng: Random, split: str) -> str:
        """Draw the hidden state, one of the split's, and return the first message."""

    @abstractmethod
    def answer(self, reply: str) -> Answer:
        """Judge the policy's reply and answer it. At most once after the answer that ends the episode comes `begin`."""

    @property
    def seed(self) -> int:
        """The seed of the episode."""
        assert self._seed is not None  # `begin` and `answer` are called after it is set
        return self._seed

    @property
    def turn(self) -> int:
        """How many replies the policy has given in this episode, the one being answered included."""
        return len(self._replies)

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the episode of a seed, a whole number >= 0; None draws one. Returns the first message."""
        checked = check_seed(seed)
        self._seed = drawn_seed() if checked is None else checked
        self._replies, self._over = [], False
        return self.begin(Random(f"{type(self).__name__} {self._seed}"), split_of(self._seed)), {"seed": self._seed}

    def step(self, action: str) -> TurnStep:
        """Answer the policy's reply: the next message, the turn's reward, terminated, truncated, info.

        info: `score_parts`, `role`, and `success` at the end. Raises InvalidAction unless the reply is a text, and
        ResetNeeded before `reset` and after the end; no state has changed then.
        """
        if not isinstance(action, str):
            raise InvalidAction(f"a reply must be a text, got {type(action).__name__}: {shown(action)}")
        if self._seed is None or self._over:
            when = "before reset" if self._seed is None else "after the episode's end"
            raise ResetNeeded(f"{type(self).__name__}.step was called {when}; call reset first")
        self._replies.append(action)
        answer = self.answer(action)
        self._over = answer.is_over
        info: dict[str, Any] = {"score_parts": dict(answer.parts), "role": answer.role}
        if answer.is_over:
            info["success"] = bool(answer.success)
        return answer.text, float(sum(answer.parts.values())), answer.is_over, False, info

    def get_state(self) -> dict[str, Any]:
        """Return where the episode stands, as plain data: its seed and the replies so far."""
        return {"seed": self._seed, "replies": list(self._replies)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `get_state` was taken. Raises ConfigError for what is no such state."""
        seed, replies = checked_course(state)
        self._seed, self._replies, self._over = None, [], False
        if seed is None:
            return
        self.reset(seed)
        for reply in replies:
            if self._over:
                raise ConfigError(f"the state of {type(self).__name__} has replies after the episode's end")
            self.step(reply)


def checked_course(state: Any) -> tuple[int | None, list[str]]:
    """Return the seed and the replies of a saved state. Raises ConfigError where it holds anything else."""
    if not isinstance(state, Mapping) or not {"seed", "replies"} <= state.keys():
        raise ConfigError(f"a saved turn environment must be a mapping with 'seed' and 'replies', got {shown(state)}")
    seed, replies = check_seed(state["seed"]), state["replies"]
    if not isinstance(replies, list) or not all(isinstance(reply, str) for reply in replies):
        raise ConfigError(f"the replies of a saved turn environment must be a list of texts, got {shown(replies)}")
    if seed is None and replies:
        raise ConfigError("a saved turn environment has replies, but no seed that they answer to")
    return seed, replies
