"""TRL, unforked: what its stock trainers need in order to train an environment's model on its prompts and reward."""

import importlib.util

from textrl_env.errors import MissingExtra

if importlib.util.find_spec("trl") is None:
    raise MissingExtra("trl", "trl")

from textrl_agents.trl.offline import train_offline
from textrl_agents.trl.online import OnlineRun, train_online
from textrl_agents.trl.reward import EnvironmentReward
from textrl_agents.trl.rows import prompt_dataset, prompt_processor

__all__ = [
    "EnvironmentReward",
    "OnlineRun",
    "prompt_dataset",
    "prompt_processor",
    "train_offline",
    "train_online",
]
