"""RLlib, unforked: the module, the connectors and the configuration that its stock algorithms run on."""

import importlib.util

from textrl_env.errors import MissingExtra

if importlib.util.find_spec("ray") is None:
    raise MissingExtra("rllib", "ray")

from textrl_agents.rllib.config import make_config
from textrl_agents.rllib.module import CausalLMModule
from textrl_agents.rllib.ray_session import ray_session
from textrl_agents.rllib.results import export_policy, policy_of, training_metrics

__all__ = ["CausalLMModule", "export_policy", "make_config", "policy_of", "ray_session", "training_metrics"]
