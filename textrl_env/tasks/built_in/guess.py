"""Find a hidden number by hints, in at most four guesses. The rules are `textrl_env.turns.built_in.guess`'s."""

from __future__ import annotations

from textrl_env.tasks.task import Task
from textrl_env.turns.built_in.guess import GUESSES

TASK = Task(
    name="guess",
    turns="guess",
    model="embedded-turns",
    max_turns=GUESSES,
    max_prompt_tokens=32,
    max_turn_tokens=10,
    max_new_tokens=128,
    description="find a hidden number by hints, in four turns",
)
