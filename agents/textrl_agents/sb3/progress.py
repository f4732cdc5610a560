"""The progress of an agent's `learn`: plain lines through SB3's own logger, or a bar."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from textrl_agents.training.terminal import LINE_SECONDS, TrainingProgress, measured_text, progress_text


class ProgressLines(KVWriter):
    """What an agent logs to unless another logger is set: a line on stderr, not more often than every `seconds`.

    SB3 writes to it after each rollout (`log_interval` of `learn`).
    """

    def __init__(self, agent: BaseAlgorithm, seconds: float = LINE_SECONDS):
        self.agent, self.seconds = agent, seconds
        self._shown_at, self._over = -math.inf, False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        now, total = time.monotonic(), self.agent._total_timesteps
        over, was_over = step >= total, self._over
        self._over = over
        if now - self._shown_at < self.seconds and not (over and not was_over):  # the last line is always shown
            return
        self._shown_at = now
        if means := rollout_means(self.agent):
            measured = measured_text(*means)
        elif (reward := key_values.get("rollout/ep_rew_mean")) is not None:
            measured = f"reward {reward:.3f}"
        else:
            measured = ""
        print(progress_text(step, total, key_values.get("time/fps", 0.0), measured), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing stays open."""


class ProgressBar(BaseCallback):
    """Shows tokens, tokens/s, score, KL from the reference and time left."""

    def __init__(self, progress: TrainingProgress):
        super().__init__()
        self.progress = progress

    def _on_training_start(self) -> None:
        self.progress.start(self.num_timesteps, self.model._total_timesteps)

    def _on_step(self) -> bool:
        self.progress.advance(self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:
        if means := rollout_means(self.model):
            self.progress.measured(*means)

    def _on_training_end(self) -> None:
        self.progress.advance(self.num_timesteps, show=True)


def rollout_means(agent: BaseAlgorithm) -> tuple[float, float] | None:
    """Score and KL of the episodes that ended in the last rollout; None where none did, or the agent keeps none."""
    episodes = getattr(getattr(agent, "rollout_buffer", None), "episodes", None)
    if not episodes:
        return None
    return float(np.mean([episode.score for episode in episodes])), float(np.mean([e.kl_sum for e in episodes]))
