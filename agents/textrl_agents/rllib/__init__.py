"""RLlib, unforked: the module, the connectors and the configuration that its stock algorithms run on."""

import importlib.util

from textrl_env.errors import MissingExtra

if importlib.util.find_spec("ray") is None:
    raise MissingExtra("rllib", "ray")

from textrl_agents.rllib.config import make_config
from textrl_agents.rllib.module import CausalLMModule

__all__ = ["CausalLMModule", "make_config"]
