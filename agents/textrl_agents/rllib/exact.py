"""Stock RLlib PPO on tasks whose optimum is known: the settings that reach it, in one place."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch

from textrl_agents.rllib.config import make_config
from textrl_agents.rllib.policy import policy_of
from textrl_agents.rllib.ray_session import ray_session
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks.assembly import assemble
from textrl_env.tasks.enumeration import ExactValue

ITERATIONS = 150
# As for SB3: many fresh samples, few epochs on each, and a learning rate that falls to 0.
SETTINGS: dict[str, Any] = {
    "num_envs_per_env_runner": 128,
    "rollout_fragment_length": 20,
    "minibatch_size": 640,
    "num_epochs": 2,
    "clip_param": 0.1,
    "vf_loss_coeff": 0.5,
    "lr": WarmupSchedule(3e-3, final=0.0),
}


class ExactResult(NamedTuple):
    """What `train_exact` reached."""

    policy: CausalLMActorCritic
    normalized: float  # 0: the reference, 1: the best any policy can do
    seconds: float  # from nothing to the trained policy, with Ray's start


def train_exact(
    seed: int = 0, *, iterations: int = ITERATIONS, device: str | torch.device = "auto", **overrides: Any
) -> ExactResult:
    """Train stock PPO on `exact` and compute its policy's exact value.

    iterations: batches, each followed by an update. overrides: `make_config`'s arguments, on top of SETTINGS.
    """
    start = time.perf_counter()
    policy = train_policy({"task": "exact", "device": str(device)}, seed, iterations, **{**SETTINGS, **overrides})
    seconds = time.perf_counter() - start
    parts = assemble("exact", device=device)
    return ExactResult(policy, ExactValue(parts.rules, parts.prompts).normalized(policy), seconds)


def train_policy(env_config: dict[str, Any], seed: int, iterations: int, **settings: Any) -> CausalLMActorCritic:
    """Train stock PPO for `iterations` batches in one process, and give its policy."""
    tokens = iterations * settings["num_envs_per_env_runner"] * settings["rollout_fragment_length"]
    config = make_config("ppo", env_config, total_timesteps=tokens, seed=seed, log_level="ERROR", **settings)
    with ray_session():
        algorithm = config.build_algo()
        try:
            for _ in range(iterations):
                algorithm.train()
            return policy_of(algorithm)
        finally:
            algorithm.stop()
