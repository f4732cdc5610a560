"""`ForeignTurns`, the base of adapters: a game of another package, with seeds and courses of our kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from textrl_env.errors import ConfigError, InvalidAction, ResetNeeded
from textrl_env.foreign_text import shown
from textrl_env.turns.foreign.global_random import GlobalRandom
from textrl_env.turns.game import TurnStep, checked_course
from textrl_env.turns.seeds import drawn_seed
from textrl_env.user_values import check_seed


class ForeignTurns(ABC):
    """A game of another package, which draws from the global random state.

    Every episode is a new game, made with the global state seeded by the episode's seed. It is saved as its seed and
    the replies so far. When it is restored they are played again, and the last message must be the one that was saved:
    a game that draws from elsewhere cannot be resumed, and says so.
    """

    def __init__(self, name: str):
        self.name = name
        self._random = GlobalRandom()
        self._seed: int | None = None
        self._replies: list[str] = []
        self._last = ""
        self._over = False

    @abstractmethod
    def begin(self, seed: int) -> str:
        """Make the game and return its first message. The global random state is seeded."""

    @abstractmethod
    def answer(self, reply: str) -> TurnStep:
        """Play a reply."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the episode of a seed, a whole number >= 0; None draws one. Returns the first message."""
        checked = check_seed(seed)
        chosen = drawn_seed() if checked is None else checked
        self._seed, self._replies, self._over = None, [], False
        with self._random.swapped(chosen):
            self._last = self.begin(chosen)
        self._seed = chosen
        return self._last, {"seed": chosen}

    def step(self, action: str) -> TurnStep:
        """Play a reply. Raises InvalidAction unless it is a text, and ResetNeeded before `reset` and after the end."""
        if not isinstance(action, str):
            raise InvalidAction(f"a reply must be a text, got {type(action).__name__}: {shown(action)}")
        if self._seed is None or self._over:
            when = "before reset" if self._seed is None else "after the episode's end"
            raise ResetNeeded(f"a step of {self.name} was made {when}; call reset first")
        with self._random.swapped():
            step = self.answer(action)
        self._replies.append(action)
        self._last, self._over = step[0], step[2] or step[3]
        return step

    def get_state(self) -> dict[str, Any]:
        """Return where the episode stands, as plain data: its seed, the replies so far and the last message."""
        return {"seed": self._seed, "replies": list(self._replies), "last": self._last}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `get_state` was taken. Raises ConfigError for no such state, and where the game differs."""
        seed, replies = checked_course(state)
        self._seed, self._replies, self._last, self._over = None, [], "", False
        if seed is None:
            return
        self.reset(seed)
        for reply in replies:
            if self._over:
                break
            self.step(reply)
        if self._replies != replies or self._last != state.get("last"):
            self._seed = None
            raise ConfigError(
                f"{self.name} cannot be resumed: with the same seed and the same replies it went another way, so it "
                "draws from something that the seed does not decide"
            )
