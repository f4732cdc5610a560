"""Train a cell by an algorithm that `make_agent` wires."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.sb3.agent import make_agent, sb3_algorithm
from textrl_agents.sb3.buffers.rollout_buffer import EpisodeRolloutBuffer

# Points of a learning curve at most.
POINTS = 100


class _Curve(BaseCallback):
    """Means over the episodes that ended since the last point, at a rollout's end."""

    def __init__(self, record: Record, every: int):
        super().__init__()
        self.record, self.every = record, every
        self._ended: list[tuple[float, float, float]] = []  # score, KL, tokens
        self._recorded_at = 0

    def _on_step(self) -> bool:
        if not isinstance(getattr(self.model, "rollout_buffer", None), EpisodeRolloutBuffer):
            ended = [info for info in self.locals["infos"] if "score" in info]
            # What is charged here is a cross-entropy, not a KL.
            self._ended += [(info["score"], np.nan, info["episode_length"]) for info in ended]
        return True

    def _on_rollout_end(self) -> None:
        buffer = getattr(self.model, "rollout_buffer", None)
        if isinstance(buffer, EpisodeRolloutBuffer):  # the KL is known only now that it has been charged
            self._ended += [(each.score, each.kl_sum, len(each.response_ids)) for each in buffer.episodes]
        if self._ended and self.num_timesteps - self._recorded_at >= self.every:
            score, kl, length = np.mean(self._ended, axis=0).tolist()
            self.record(self.num_timesteps, score=score, kl=None if np.isnan(kl) else kl, length=length)
            self._ended, self._recorded_at = [], self.num_timesteps


def train(cell: Cell, record: Record) -> Trained:
    """Train `make_agent(cell.algorithm)` with `cell.settings`; whole rollouts, within the budget but for a first."""
    algorithm = sb3_algorithm(cell.algorithm)
    settings: dict[str, Any] = dict(cell.settings)
    agent = make_agent(cell.algorithm, env_kwargs=cell.env_arguments, seed=cell.seed, **settings)
    agent.set_logger(Logger(folder=None, output_formats=[]))
    step = agent.n_envs * (getattr(agent, "n_steps", None) or 1)
    if algorithm.kind == "value":  # its n_steps are those of a return
        step = agent.n_envs * agent.train_freq.frequency
    agent.learn(max(1, cell.budget // step) * step, callback=_Curve(record, cell.budget // POINTS))
    return Trained(
        agent.policy.actor_critic,
        tokens=agent.num_timesteps,
        deterministic=algorithm.greedy,
        close=agent.env.close,
    )
