"""Stable-Baselines3, unforked: the environment, the policy and the rollout buffer its stock algorithms run on."""

import importlib.util

from textrl_env.errors import MissingExtra

if importlib.util.find_spec("stable_baselines3") is None:
    raise MissingExtra("sb3", "stable-baselines3")

from textrl_agents.sb3.agent import make_agent
from textrl_agents.sb3.buffers.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_agents.sb3.saved_policy import ModelCopy
from textrl_agents.sb3.vec_env import TextVecEnv

__all__ = ["CausalLMPolicy", "EpisodeRolloutBuffer", "ModelCopy", "TextVecEnv", "make_agent"]
