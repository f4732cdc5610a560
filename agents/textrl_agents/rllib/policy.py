"""The policy that an algorithm trains, out of its learners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID

from textrl_agents.rllib.connectors.packing import PackEpisodes
from textrl_env.models import CausalLMActorCritic


def policy_of(algorithm: Any) -> CausalLMActorCritic:
    """The actor-critic with the learners' present weights: a local learner's own, else a copy in this process."""
    group = algorithm.learner_group
    if group.is_local:
        module = group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    else:
        module = algorithm.env_runner.module
        module.set_state(group.get_weights()[DEFAULT_MODULE_ID])
    policy: CausalLMActorCritic = module.actor_critic
    return policy


def export_policy(algorithm: Any, folder: str | Path) -> None:
    """Write the policy as a folder that plain `AutoModelForCausalLM.from_pretrained` loads, the value head beside."""
    policy_of(algorithm).save_pretrained(folder)


def packer_of(learner: Any) -> PackEpisodes:
    """The learner connector that `make_config` put in."""
    return next(piece for piece in learner._learner_connector.connectors if isinstance(piece, PackEpisodes))
