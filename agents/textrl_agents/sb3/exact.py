"""Stock SB3 PPO on the `exact` task, whose optimum is known: the settings that reach it, in one place.

A policy gradient closes the last percents by averaging noise away, so what counts is many fresh samples: small
rollouts, two epochs on each, and a learning rate that falls to 0.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from textrl_agents.sb3.agent import make_agent
from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_env.tasks.enumeration import ExactValue

ITERATIONS = 250
SETTINGS: dict[str, Any] = {
    "n_envs": 128,
    "n_steps": 20,
    "batch_size": 640,
    "n_epochs": 2,
    "clip_range": 0.1,
    "vf_coef": 0.5,
    "learning_rate": WarmupSchedule(3e-3, final=0.0),
}


class ExactResult(NamedTuple):
    """What `train_exact` reached."""

    agent: OnPolicyAlgorithm
    normalized: float  # 0: the reference, 1: the best any policy can do
    seconds: float  # from nothing to the trained agent


def train_exact(
    seed: int = 0, *, iterations: int = ITERATIONS, device: str | torch.device = "auto", **overrides: Any
) -> ExactResult:
    """Train stock PPO on `exact` and compute its policy's exact value.

    iterations: rollouts, each followed by an update. overrides: `make_agent`'s arguments, on top of SETTINGS.
    One thread is the fastest for a model as small as this; it uses as many as torch is set to.
    """
    start = time.perf_counter()
    arguments = {"env_kwargs": {"task": "exact", "device": device}, **SETTINGS, **overrides}
    agent = make_agent("ppo", seed=seed, **arguments)
    agent.set_logger(Logger(folder=None, output_formats=[]))
    agent.learn(iterations * agent.n_steps * agent.n_envs)
    seconds = time.perf_counter() - start
    env, policy = agent.env, agent.policy
    assert isinstance(env, TextVecEnv)
    assert isinstance(policy, CausalLMPolicy)
    exact = ExactValue(env.env.rules, env.env.prompts)
    return ExactResult(agent, exact.normalized(policy.actor_critic), seconds)
