"""RLlib's PPO in the fine-tuning environment: a stock config of the new API stack, in one process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.tune.registry import register_env

from textrl_agents.finetune.learning_curve import Act, LearningCurve
from textrl_agents.rllib.ray_session import ray_session
from textrl_env.finetune import FineTuneEnv

BATCH = 200  # steps from one update to the next
SETTINGS = {"gamma": 1.0, "lr": 1e-3, "minibatch_size": 50, "num_epochs": 10, "entropy_coeff": 0.003}


def train_rllib(
    make_env: Callable[[], FineTuneEnv],
    segments: int,
    *,
    seed: int = 0,
    curve: LearningCurve | None = None,
    **overrides: Any,
) -> Any:
    """Train RLlib's PPO for `segments` segments, rounded up to whole batches; return its module.

    overrides: of the config's `training`. Starts Ray where none runs.
    """
    register_env("textrl-finetune", lambda config: make_env())
    config = (
        PPOConfig()
        .environment("textrl-finetune")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=BATCH, **{**SETTINGS, **overrides})
        .debugging(seed=seed, log_level="ERROR")
    )
    with ray_session():
        algorithm = config.build_algo()
        try:
            batches = math.ceil(segments / BATCH)
            for batch in range(1, batches + 1):
                algorithm.train()
                if curve is not None:
                    look = curve.end if batch == batches else curve.note
                    look(batch * BATCH, greedy(algorithm.get_module()))
            return algorithm.get_module()
        finally:
            algorithm.stop()


def greedy(module: Any) -> Act:
    """The module's likeliest action."""

    def act(observation: np.ndarray) -> int:
        with torch.no_grad():
            out = module.forward_inference({Columns.OBS: torch.from_numpy(observation)[None]})
        return int(out[Columns.ACTION_DIST_INPUTS].argmax())

    return act
