"""Do a sum with a calculator at hand: the sums of `arithmetic`, and a tool. The embedded model cannot add, and can
learn to call. The rules are `textrl_env.turns.built_in.calculator`'s.
"""

from __future__ import annotations

from textrl_env.tasks.task import Task
from textrl_env.turns.built_in.calculator import MOST_CALLS

TASK = Task(
    name="calculator",
    turns="calculator",
    model="embedded-turns",
    max_turns=MOST_CALLS + 1,
    max_prompt_tokens=64,
    max_turn_tokens=20,
    max_new_tokens=112,
    description="do a sum with a calculator at hand",
)
