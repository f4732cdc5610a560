"""Prompts served in groups: each to several rows, for algorithms that compare responses to one prompt."""

from __future__ import annotations

from typing import Any

import numpy as np

from textrl_env.text.prompts import Prompt, PromptSet


class PromptGroups:
    """Hands each prompt to `size` rows, one after the other as they become free.

    Rows end at different times, so groups are filled by whichever rows are free next: no row waits for another, and a
    group ends at most one response after it began.
    """

    def __init__(self, prompts: PromptSet, size: int):
        self.prompts, self.size = prompts, size
        self.generator = np.random.default_rng()
        self.group = -1  # the group being filled; they are numbered from 0
        self._prompt: Prompt | None = None
        self._left = 0  # rows that the group still needs

    def start(self) -> None:
        """Begin a new group, whatever the last one lacked: its rows are reset now."""
        self._left = 0

    def next(self) -> tuple[Prompt, int]:
        """The next free row's prompt and the number of its group."""
        if self._left == 0 or self._prompt is None:
            self._prompt, self._left = self.prompts.sample(self.generator), self.size
            self.group += 1
        self._left -= 1
        return self._prompt, self.group

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain data."""
        index = None if self._prompt is None else self._prompt.index
        state = self.generator.bit_generator.state
        return {"generator": state, "group": self.group, "prompt": index, "left": self._left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, over the same prompts."""
        self.generator = restored_generator(state["generator"])
        self.group, self._left = int(state["group"]), int(state["left"])
        self._prompt = None if state["prompt"] is None else self.prompts[state["prompt"]]


def restored_generator(state: dict[str, Any]) -> np.random.Generator:
    """A generator of the saved state's own kind: `reset(seed=...)` and a constructor may make different ones."""
    generator = np.random.Generator(getattr(np.random, state["bit_generator"])())
    generator.bit_generator.state = state
    return generator
