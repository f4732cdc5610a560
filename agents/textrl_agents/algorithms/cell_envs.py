"""The environments of a cell: the one it is trained in, and the one it is judged in."""

from __future__ import annotations

from gymnasium.vector import AutoresetMode

from textrl_agents.algorithms.cell import Cell
from textrl_env import TextGenVectorEnv
from textrl_env.tasks.splits import best_split

TRAINING_ROWS = 64  # sampled at once
EVAL_ROWS = 64


def training_env(cell: Cell, rows: int = TRAINING_ROWS) -> TextGenVectorEnv:
    """The cell's environment over its training prompts, whose KL is charged afterwards."""
    arguments = {**cell.env_arguments, "kl_mode": "deferred"}
    return TextGenVectorEnv(rows, autoreset_mode=AutoresetMode.SAME_STEP, **arguments)


def judging_env(cell: Cell) -> TextGenVectorEnv:
    """What a cell is judged in: the prompts of its split, the training prompts where there are none."""
    # The reference of an adapter is the weights it sits on, which are the model's own.
    arguments = {name: value for name, value in cell.env_arguments.items() if name != "lora"}
    arguments |= {"split": best_split(cell.task, cell.split, cell.env), "kl_mode": "deferred"}
    return TextGenVectorEnv(min(EVAL_ROWS, cell.eval_episodes), autoreset_mode=AutoresetMode.SAME_STEP, **arguments)
