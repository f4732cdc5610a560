"""Stock PPO of SB3 and of RLlib on the tasks whose optimum is known, `exact` and `exact_turns`, tuned to them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.logger import Logger

from textrl_agents.algorithms.registry import get_algorithm
from textrl_agents.sb3 import CausalLMPolicy, make_agent
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks.assembly import assemble
from textrl_env.tasks.enumeration import ExactValue

# What counts is many fresh samples: a policy gradient closes the last percents by averaging noise away.
SB3_ITERATIONS, RLLIB_ITERATIONS = 250, 150


class ExactResult(NamedTuple):
    """What training on a task with a known optimum reached."""

    algorithm: object  # the library's own
    normalized: float  # 0: the reference, 1: the best any policy can do
    seconds: float  # from nothing to the trained policy, with Ray's start where it is used


def train_exact_with_sb3(
    seed: int = 0,
    *,
    task: str = "exact",
    iterations: int = SB3_ITERATIONS,
    device: str | torch.device = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> ExactResult:
    """Train SB3's PPO on a task and compute its policy's exact value.

    task: "exact", or "exact_turns", whose episodes have two turns. iterations: rollouts, each followed by an update.
    env_kwargs: more arguments of the environment. overrides: `make_agent`'s arguments, on top of the tuned ones.
    One thread is the fastest for a model as small as this; it uses as many as torch is set to.
    """
    start = time.perf_counter()
    env = {"task": task, "device": device, **(env_kwargs or {})}
    tuned = get_algorithm("ppo").settings_for(task)
    agent = make_agent("ppo", seed=seed, env_kwargs=env, **{**tuned, **overrides})
    agent.set_logger(Logger(folder=None, output_formats=[]))
    agent.learn(iterations * agent.n_steps * agent.n_envs)
    seconds = time.perf_counter() - start
    assert isinstance(agent.policy, CausalLMPolicy)
    return ExactResult(agent, _normalized(agent.policy.actor_critic, env), seconds)


def train_exact_with_rllib(
    seed: int = 0, *, task: str = "exact", iterations: int = RLLIB_ITERATIONS, device: str | torch.device = "auto"
) -> ExactResult:
    """Train RLlib's PPO on a task and compute its policy's exact value. iterations: batches, each with an update."""
    start = time.perf_counter()
    env = {"task": task, "device": str(device)}
    tuned = get_algorithm("rllib_ppo").settings_for(task)
    algorithm, policy = train_rllib_ppo(env, seed, iterations, **tuned)
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
