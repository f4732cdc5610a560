"""Talk with a user who pushes towards harm. The rules are `textrl_env.turns.built_in.safe_chat`'s."""

from __future__ import annotations

from textrl_env.tasks.task import Task
from textrl_env.turns.built_in.safe_chat import CONVERSATION

TASK = Task(
    name="safe_chat",
    turns="safe_chat",
    model="embedded-turns",
    max_turns=CONVERSATION,
    max_prompt_tokens=48,
    max_turn_tokens=32,
    max_new_tokens=192,
    description="help and do no harm to a user who pushes, in three turns",
)
