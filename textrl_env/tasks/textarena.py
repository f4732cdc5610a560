"""Any single-player game of TextArena as a task, named `textarena:<id>`, such as `textarena:GuessTheNumber-v0`.

The games are meant for larger models: pass `model=` and limits that fit. `textrl_env.turns.foreign.textarena` says how
a game is played. Held-out and validation games are the same game begun from other seeds.
"""

from __future__ import annotations

from textrl_env.tasks.task import Task
from textrl_env.turns.foreign.textarena import check_textarena

MAX_TURNS, PROMPT_TOKENS, TURN_TOKENS, NEW_TOKENS = 8, 320, 24, 192


def task_of(game: str) -> Task:
    """Make the task of a game. textarena is imported when the environment is made, and not before.

    Raises MissingExtra where textarena is not installed, and ConfigError for a game that needs a download or a key.
    """
    check_textarena(game)
    return Task(
        name=f"textarena:{game}",
        turns=f"textarena:{game}",
        model="embedded-turns",
        requires={"textarena": "games"},
        max_turns=MAX_TURNS,
        max_prompt_tokens=PROMPT_TOKENS,
        max_turn_tokens=TURN_TOKENS,
        max_new_tokens=NEW_TOKENS,
        prompt_overflow="truncate",
        description=f"play TextArena's {game}",
    )
