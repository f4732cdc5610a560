"""Callbacks for stock SB3 algorithms: RLHF metrics, evaluation and samples on held-out prompts, progress.

Two divergences appear side by side in the logs. SB3's `train/approx_kl` is measured from the *previous policy*, the one
that sampled the rollout, and says how far one update moved. `objective/kl` is measured from the *reference*, per
response, and says how far training has moved altogether; it is the one that `kl_coef` weighs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from textrl_agents.evaluation import Evaluation, evaluate
from textrl_agents.progress import TrainingProgress
from textrl_agents.rlhf_metrics import EndedEpisode, rlhf_metrics
from textrl_agents.sample_file import SampleFile
from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_agents.sb3.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_env import TextGenVectorEnv


class RLHFMetrics(BaseCallback):
    """Logs the episodes that ended in each rollout: `rlhf_metrics`, and `objective/kl_coef`."""

    def _on_rollout_end(self) -> None:
        env, buffer = self.training_env, self.model.rollout_buffer  # type: ignore[attr-defined]
        assert isinstance(env, TextVecEnv)
        assert isinstance(buffer, EpisodeRolloutBuffer)
        episodes = [
            EndedEpisode.of(episode.info(), charged=episode.kl_sum, kl_coef=episode.kl_coef, surprisal=surprisal)
            for episode, surprisal in zip(buffer.episodes, buffer.response_entropies, strict=True)
        ]
        self.logger.record("objective/kl_coef", env.env.kl_penalty.coef)
        for name, value in rlhf_metrics(episodes, env.env.rules.kl_mode).items():
            self.logger.record(name, value)

    def _on_step(self) -> bool:
        return True


class HeldoutEvaluation(BaseCallback):
    """Evaluates the policy before training, every `every` tokens, and after training.

    env: an environment of held-out prompts (`textrl_agents.evaluation.sibling_env`). every: 0 evaluates before and
    after alone. samples: file that gets `sample_count` responses to the same prompts each time.
    evaluated_at: tokens of the checkpoint that a resumed run goes on from; what was due there was done before it.

    The random state of training is not touched: a run with evaluations has the same weights as one without. Logs
    `eval/score`, `eval/gold_score`, `eval/kl`, `eval/penalized_return`, `eval/length`, `eval/entropy`, each with
    `eval/<name>_ci95` (half the width of its 95% interval), `eval/distinct_1`, `eval/distinct_2`, `eval/eos_share`.
    """

    def __init__(
        self,
        env: TextGenVectorEnv,
        *,
        every: int = 0,
        episodes: int = 256,
        seed: int = 0,
        samples: SampleFile | None = None,
        sample_count: int = 4,
        progress: TrainingProgress | None = None,
        evaluated_at: int | None = None,
    ):
        super().__init__()
        self.env, self.every, self.episodes, self.seed = env, every, episodes, seed
        self.samples, self.sample_count, self.progress = samples, sample_count, progress
        self.first: Evaluation | None = None  # before training; None in a resumed run
        self.last: Evaluation | None = None
        self._evaluated_at = evaluated_at
        self._in_rollout = False

    def _on_rollout_start(self) -> None:
        tokens = self.num_timesteps
        self._in_rollout = True
        per_rollout = self.model.n_steps * self.training_env.num_envs  # type: ignore[attr-defined]
        due = self.every > 0 and tokens // self.every > (tokens - per_rollout) // self.every
        if tokens != self._evaluated_at and (due or tokens == 0):
            self.run()

    def _on_training_end(self) -> None:
        # `learn` also ends here when a callback has stopped it within a rollout: then this is not the final policy.
        if not self._in_rollout:
            self.run()

    def _on_rollout_end(self) -> None:
        self._in_rollout = False

    def run(self) -> Evaluation:
        """Evaluate now, and write the result to the log and the samples."""
        policy = self.model.policy
        assert isinstance(policy, CausalLMPolicy)
        if self.progress is not None:
            self.progress.note("evaluating")
        result = evaluate(policy.actor_critic, env=self.env, episodes=self.episodes, seed=self.seed)
        if self.progress is not None:
            self.progress.note("training")
        self.first = result if self.num_timesteps == 0 else self.first
        self.last = result
        for name, statistic in result.statistics.items():
            self.logger.record(f"eval/{name}", statistic.mean)
            self.logger.record(f"eval/{name}_ci95", statistic.half_width)
        self.logger.record("eval/distinct_1", result.distinct_1)
        self.logger.record("eval/distinct_2", result.distinct_2)
        self.logger.record("eval/eos_share", result.finish_reasons["eos"])
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        # Now, with the tokens it belongs to; with it goes what the update before it has recorded.
        self.logger.dump(self.num_timesteps)
        if self.samples is not None:
            self.samples.add(self.num_timesteps, result.records[: self.sample_count])
        return result

    def _on_step(self) -> bool:
        return True


class ProgressBar(BaseCallback):
    """Shows tokens, tokens/s, score, KL from the reference and time left; nothing where there is no terminal."""

    def __init__(self, progress: TrainingProgress):
        super().__init__()
        self.progress = progress

    def _on_training_start(self) -> None:
        self.progress.start(self.num_timesteps, self.model._total_timesteps)

    def _on_step(self) -> bool:
        self.progress.advance(self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.rollout_buffer.episodes  # type: ignore[attr-defined]
        if episodes:
            score, kl = (
                float(np.mean([getattr(episode, name) for episode in episodes])) for name in ("score", "kl_sum")
            )
            self.progress.measured(score, kl)

    def _on_training_end(self) -> None:
        self.progress.advance(self.num_timesteps)


class StopOnRequest(BaseCallback):
    """Ends `learn` at the next step once `requested()` is true."""

    def __init__(self, requested: Callable[[], bool]):
        super().__init__()
        self.requested = requested

    def _on_step(self) -> bool:
        return not self.requested()
