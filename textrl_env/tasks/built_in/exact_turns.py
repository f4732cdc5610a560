"""Two turns that can be solved by enumeration: 5 tokens, 3 a turn, 7,225 courses from each of two first letters.

What is best in the first turn is not what pays best there, see `textrl_env.turns.built_in.exact_turns`. The best value
any policy can reach is known exactly, see `textrl_env.tasks.enumeration`. None of the letters is held out.
"""

from __future__ import annotations

from typing import Any

from textrl_env.tasks.built_in.exact import letter_model
from textrl_env.tasks.task import Task
from textrl_env.turns import PlainBridge
from textrl_env.turns.built_in.exact_turns import LETTERS, STARTS, TURN_TOKENS


def model() -> Any:
    """Make the model of the task `exact` over one letter less."""
    return letter_model(LETTERS)


def bridge(tokenizer: Any) -> PlainBridge:
    """Write nothing around the letters of the turn environment: each is one token."""
    return PlainBridge(tokenizer, before="", after="")


TASK = Task(
    name="exact_turns",
    turns="exact_turns",
    prompts=[{"prompt": "", "seed": seed} for seed in range(len(STARTS))],  # a seed for each first letter
    validation_prompts=[],
    heldout_prompts=[],
    bridge=bridge,
    model=model,
    kl_coef=0.5,
    max_turns=2,
    max_prompt_tokens=1,
    max_turn_tokens=TURN_TOKENS,
    max_new_tokens=2 * TURN_TOKENS + 1,
    description="two turns of five tokens: the optimum is known by enumeration",
)
