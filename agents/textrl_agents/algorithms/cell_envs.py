"""The environments of a cell: the one it is trained in, and the one it is judged in."""

from __future__ import annotations

from gymnasium.vector import AutoresetMode

from textrl_agents.algorithms.cell import Cell
from textrl_agents.evaluation.heldout_env import heldout_env
from textrl_env import TextGenVectorEnv

TRAINING_ROWS = 64  # sampled at once


def training_env(cell: Cell, rows: int = TRAINING_ROWS) -> TextGenVectorEnv:
    """The cell's environment over its training prompts, whose KL is charged afterwards."""
    arguments = {**cell.env_arguments, "kl_mode": "deferred"}
    return TextGenVectorEnv(rows, autoreset_mode=AutoresetMode.SAME_STEP, **arguments)


def judging_env(cell: Cell) -> TextGenVectorEnv:
    """What a cell is judged in: the prompts of its split, the training prompts where there are none."""
    return heldout_env(cell.env_arguments, episodes=cell.eval_episodes, split=cell.split)
