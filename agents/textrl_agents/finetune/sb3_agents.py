"""SB3's DQN, PPO and A2C in the fine-tuning environment: stock classes, stock policies, a few settings for its size."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from textrl_agents.finetune.learning_curve import LearningCurve
from textrl_env.finetune import FineTuneEnv
from textrl_env.user_values import check_names

CLASSES: Mapping[str, type[BaseAlgorithm]] = MappingProxyType({"dqn": DQN, "ppo": PPO, "a2c": A2C})
# Episodes are five steps long, rewards are about a tenth, and nothing is discounted. What is not named is SB3's own.
SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "dqn": {
            "gamma": 1.0,
            "learning_rate": 1e-3,
            "learning_starts": 250,
            "train_freq": 1,
            "target_update_interval": 250,
            "exploration_fraction": 0.6,
            "exploration_final_eps": 0.02,
        },
        "ppo": {"gamma": 1.0, "learning_rate": 1e-3, "n_steps": 100, "batch_size": 50, "ent_coef": 0.003},
        "a2c": {"gamma": 1.0, "learning_rate": 2e-3, "n_steps": 20, "ent_coef": 0.003},
    }
)


def train_sb3(
    name: str,
    env: FineTuneEnv,
    segments: int,
    *,
    seed: int = 0,
    curve: LearningCurve | None = None,
    **overrides: Any,
) -> BaseAlgorithm:
    """Train "dqn", "ppo" or "a2c" for `segments` segments; overrides: of its arguments. Raises UnknownName.

    The agent is an MLP of SB3's default size over observations that SB3's `VecNormalize` scales.
    """
    check_names("algorithm of SB3", [name], CLASSES)
    from stable_baselines3.common.vec_env import VecNormalize

    vec_env = VecNormalize(make_vec_env(lambda: env, n_envs=1), norm_reward=False)
    arguments = {**SETTINGS[name], "seed": seed, "device": "cpu", **overrides}
    agent = CLASSES[name]("MlpPolicy", vec_env, **arguments)
    agent.set_logger(Logger(folder=None, output_formats=[]))
    agent.learn(segments, callback=None if curve is None else _CurveCallback(curve, vec_env))
    return agent


class _CurveCallback(BaseCallback):
    """Notes the greedy schedule at the ends of episodes, and after the last update."""

    def __init__(self, curve: LearningCurve, vec_env: Any):
        super().__init__()
        self.curve, self.vec_env = curve, vec_env

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            state = torch.get_rng_state()  # `predict` must not change what is learned
            self.curve.note(self.num_timesteps, self._greedy)
            torch.set_rng_state(state)
        return True

    def _on_training_end(self) -> None:
        self.curve.end(self.num_timesteps, self._greedy)

    def _greedy(self, observation: Any) -> int:
        action, _ = self.model.predict(self.vec_env.normalize_obs(observation), deterministic=True)
        return int(action)
