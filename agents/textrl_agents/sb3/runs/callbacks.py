"""Callbacks for stock SB3 algorithms: RLHF metrics, evaluations and samples, progress.

Two divergences appear side by side in the logs. SB3's `train/approx_kl` is measured from the *previous policy*, the one
that sampled the rollout, and says how far one update moved. `objective/kl` is measured from the *reference*, per
response, and says how far training has moved altogether; it is the one that `kl_coef` weighs.
"""

from __future__ import annotations

from collections.abc import Callable

from stable_baselines3.common.callbacks import BaseCallback

from textrl_agents.runs.run_evaluations import RunEvaluations
from textrl_agents.sb3.buffers.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_agents.sb3.runs.progress_lines import rollout_means
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_agents.training.rlhf_metrics import rlhf_metrics
from textrl_agents.training.terminal import TrainingProgress


class RLHFMetrics(BaseCallback):
    """Logs the episodes that ended in each rollout: `rlhf_metrics`, and `objective/kl_coef`."""

    def _on_rollout_end(self) -> None:
        env, buffer = self.training_env, self.model.rollout_buffer  # type: ignore[attr-defined]
        assert isinstance(env, TextVecEnv)
        assert isinstance(buffer, EpisodeRolloutBuffer)
        self.logger.record("objective/kl_coef", env.env.kl_penalty.coef)
        for name, value in rlhf_metrics(buffer.episodes, env.env.rules.kl_mode).items():
            self.logger.record(name, value)

    def _on_step(self) -> bool:
        return True


class Evaluations(BaseCallback):
    """Evaluates the policy where `evaluations` are due, and logs the results."""

    def __init__(self, evaluations: RunEvaluations):
        super().__init__()
        self.evaluations = evaluations
        self._in_rollout = False

    def _on_rollout_start(self) -> None:
        self._in_rollout = True
        per_rollout = self.model.n_steps * self.training_env.num_envs  # type: ignore[attr-defined]
        if self.evaluations.due(self.num_timesteps, self.num_timesteps - per_rollout):
            self.run()

    def _on_training_end(self) -> None:
        # `learn` also ends here when a callback has stopped it within a rollout: then this is not the final policy.
        if not self._in_rollout:
            self.run(done=True)

    def _on_rollout_end(self) -> None:
        self._in_rollout = False

    def run(self, *, done: bool = False) -> None:
        """Evaluate now, and write the result to the log. done: whether training is over."""
        policy = self.model.policy
        assert isinstance(policy, CausalLMPolicy)
        for name, value in self.evaluations.run(policy.actor_critic, self.num_timesteps, done=done).items():
            self.logger.record(name, value)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        # Now, with the tokens it belongs to; with it goes what the update before it has recorded.
        self.logger.dump(self.num_timesteps)

    def _on_step(self) -> bool:
        return True


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


class StopOnRequest(BaseCallback):
    """Ends `learn` at the next step once `requested()` is true."""

    def __init__(self, requested: Callable[[], bool]):
        super().__init__()
        self.requested = requested

    def _on_step(self) -> bool:
        return not self.requested()
