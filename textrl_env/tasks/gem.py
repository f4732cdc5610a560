"""Any environment of GEM as a task, named `gem:<id>`, such as `gem:game:GuessTheNumber-v0-easy`, where it is installed.

The environments are meant for larger models: pass `model=` and limits that fit. Held-out and validation episodes begin
from other seeds.
"""

from __future__ import annotations

from textrl_env.tasks.task import Task
from textrl_env.tasks.textarena import MAX_TURNS, NEW_TOKENS, PROMPT_TOKENS, TURN_TOKENS
from textrl_env.turns.foreign.gem import check_gem


def task_of(environment: str) -> Task:
    """Make the task of an environment. Raises ConfigError where GEM is not installed."""
    check_gem()
    return Task(
        name=f"gem:{environment}",
        turns=f"gem:{environment}",
        model="embedded-turns",
        max_turns=MAX_TURNS,
        max_prompt_tokens=PROMPT_TOKENS,
        max_turn_tokens=TURN_TOKENS,
        max_new_tokens=NEW_TOKENS,
        prompt_overflow="truncate",
        description=f"talk with GEM's {environment}",
    )
