"""Stock PPO of SB3 and of RLlib on the task `exact`, whose optimum is known: the settings that reach it.

A policy gradient closes the last percents by averaging noise away. What counts is many fresh samples: small rollouts,
two epochs on each, and a learning rate that falls to 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.logger import Logger

from textrl_agents.sb3 import CausalLMPolicy, make_agent
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks.assembly import assemble
from textrl_env.tasks.enumeration import ExactValue

SB3_ITERATIONS = 250
SB3_SETTINGS: dict[str, Any] = {
    "n_envs": 128,
    "n_steps": 20,
    "batch_size": 640,
    "n_epochs": 2,
    "clip_range": 0.1,
    "vf_coef": 0.5,
    "learning_rate": WarmupSchedule(3e-3, final=0.0),
}
RLLIB_ITERATIONS = 150
RLLIB_SETTINGS: dict[str, Any] = {
    "num_envs_per_env_runner": 128,
    "rollout_fragment_length": 20,
    "minibatch_size": 640,
    "num_epochs": 2,
    "clip_param": 0.1,
    "vf_loss_coeff": 0.5,
    "lr": WarmupSchedule(3e-3, final=0.0),
}


class ExactResult(NamedTuple):
    """What training on `exact` reached."""

    algorithm: object  # the library's own
    normalized: float  # 0: the reference, 1: the best any policy can do
    seconds: float  # from nothing to the trained policy, with Ray's start where it is used


def train_exact_with_sb3(
    seed: int = 0,
    *,
    iterations: int = SB3_ITERATIONS,
    device: str | torch.device = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> ExactResult:
    """Train SB3's PPO on `exact` and compute its policy's exact value.

    iterations: rollouts, each followed by an update. env_kwargs: more arguments of the environment.
    overrides: `make_agent`'s arguments, on top of SB3_SETTINGS.
    One thread is the fastest for a model as small as this; it uses as many as torch is set to.
    """
    start = time.perf_counter()
    env = {"task": "exact", "device": device, **(env_kwargs or {})}
    agent = make_agent("ppo", seed=seed, env_kwargs=env, **{**SB3_SETTINGS, **overrides})
    agent.set_logger(Logger(folder=None, output_formats=[]))
    agent.learn(iterations * agent.n_steps * agent.n_envs)
    seconds = time.perf_counter() - start
    assert isinstance(agent.policy, CausalLMPolicy)
    return ExactResult(agent, _normalized(agent.policy.actor_critic, env), seconds)


def train_exact_with_rllib(
    seed: int = 0, *, iterations: int = RLLIB_ITERATIONS, device: str | torch.device = "auto", **overrides: Any
) -> ExactResult:
    """Train RLlib's PPO on `exact` and compute its policy's exact value.

    iterations: batches, each followed by an update. overrides: `make_config`'s arguments, on top of RLLIB_SETTINGS.
    """
    start = time.perf_counter()
    env = {"task": "exact", "device": str(device)}
    algorithm, policy = train_rllib_ppo(env, seed, iterations, **{**RLLIB_SETTINGS, **overrides})
    seconds = time.perf_counter() - start
    return ExactResult(algorithm, _normalized(policy, env), seconds)


def train_rllib_ppo(
    env_config: dict[str, Any], seed: int, iterations: int, **settings: Any
) -> tuple[object, CausalLMActorCritic]:
    """Train RLlib's PPO for `iterations` batches in one process; return the algorithm, stopped, and its policy."""
    from textrl_agents.rllib import make_config, policy_of, ray_session  # `textrl check` works without RLlib

    tokens = iterations * settings["num_envs_per_env_runner"] * settings["rollout_fragment_length"]
    config = make_config("ppo", env_config, total_timesteps=tokens, seed=seed, log_level="ERROR", **settings)
    with ray_session():
        algorithm = config.build_algo()
        try:
            for _ in range(iterations):
                algorithm.train()
            return algorithm, policy_of(algorithm)
        finally:
            algorithm.stop()


def _normalized(policy: CausalLMActorCritic, env: Mapping[str, Any]) -> float:
    parts = assemble(**env)
    return ExactValue(parts.rules, parts.prompts).normalized(policy)
