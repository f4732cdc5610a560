"""A turn environment for tests: its course follows from its seed and what it is told, and it can be saved."""

from __future__ import annotations

from random import Random
from typing import Any


class CountingGame:
    """Tells a number, answers each turn with the letters it was told so far, and ends after `turns` turns.

    A turn is worth a hundredth of its letters, and its parts say how many were vowels.
    """

    def __init__(self, turns: int = 3, truncates: bool = False):
        self.turns, self.truncates = turns, truncates
        self.told: list[str] = []

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.seed, self.told = seed, []
        self.number = Random(seed).randrange(100)
        return f"Number {self.number}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.told.append(action)
        letters = sum(map(len, self.told))
        over = len(self.told) == self.turns
        vowels = sum(letter in "aeiou" for letter in action)
        info = {"score_parts": {"vowels": vowels / 100}, **({"success": letters > self.number} if over else {})}
        return f"{letters} of {self.number}", len(action) / 100, over and not self.truncates, over, info

    def get_state(self) -> dict[str, Any]:
        return {"seed": self.seed, "told": self.told}

    def set_state(self, state: dict[str, Any]) -> None:
        self.reset(state["seed"])
        self.told = list(state["told"])
