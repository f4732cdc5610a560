"""Ask a customer what to recommend, then recommend. The rules are `textrl_env.turns.built_in.clarify`'s."""

from __future__ import annotations

from textrl_env.tasks.task import Task
from textrl_env.turns.built_in.clarify import MOST_TURNS

TASK = Task(
    name="clarify",
    turns="clarify",
    model="embedded-turns",
    max_turns=MOST_TURNS,
    max_prompt_tokens=64,
    max_turn_tokens=24,
    max_new_tokens=224,
    description="ask a customer what to recommend, then recommend",
)
