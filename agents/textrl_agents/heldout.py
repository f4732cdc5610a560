"""Evaluation while training: when it is due, on which prompts, and what is written of it."""

from __future__ import annotations

from typing import Any

from textrl_agents.config import TrainConfig
from textrl_agents.evaluation import Evaluation, evaluate
from textrl_agents.progress import TrainingProgress
from textrl_agents.run_folder import RunFolder
from textrl_agents.sample_file import SampleFile
from textrl_env import TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks import Task

EVAL_ROWS = 64
# Of an evaluation, while training goes on: measure -> how it is called there.
SHOWN = {"score": "score", "gold_score": "gold score", "kl": "KL", "length": "tokens a response"}


def heldout_prompts(config: TrainConfig, task: Task) -> Any:
    """What to evaluate on: None for the task's held-out prompts, the training prompts where there are none."""
    if config.heldout_prompts is not None:
        return config.heldout_prompts
    if "prompts" in config.env:
        return config.env["prompts"]
    if task.heldout_prompts is not None:
        return None
    return task.prompts() if callable(task.prompts) else task.prompts


class Heldout:
    """Evaluates a policy before training, every `every` tokens, and after training.

    env: of held-out prompts, in SAME_STEP and deferred mode. every: 0 evaluates before and after alone. samples: file
    that gets `sample_count` responses to the same prompts each time.
    evaluated_at: tokens of the checkpoint that a resumed run goes on from; what was due there was done before it.

    The random state of training is not touched: a run with evaluations has the same weights as one without.
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
        self.env, self.every, self.episodes, self.seed = env, every, episodes, seed
        self.samples, self.sample_count, self.progress = samples, sample_count, progress
        self.first: Evaluation | None = None  # before training; None in a resumed run
        self.last: Evaluation | None = None
        self._evaluated_at = evaluated_at

    @classmethod
    def of_run(
        cls,
        config: TrainConfig,
        env: TextGenVectorEnv,
        run: RunFolder,
        *,
        progress: TrainingProgress | None,
        evaluated_at: int | None,
    ) -> Heldout:
        """As a run's settings say, with its samples in its folder."""
        return cls(
            env,
            every=config.eval_every or 0,
            episodes=config.eval_episodes,
            seed=config.seed,
            samples=SampleFile(run.samples) if config.samples else None,
            sample_count=config.samples,
            progress=progress,
            evaluated_at=evaluated_at,
        )

    def due(self, tokens: int, before: int) -> bool:
        """Whether to evaluate at `tokens`, after the rollout that began at `before`."""
        passed = self.every > 0 and tokens // self.every > before // self.every
        return tokens != self._evaluated_at and (passed or tokens == 0)

    def run(self, actor_critic: CausalLMActorCritic, tokens: int) -> dict[str, float]:
        """Evaluate now and write samples.

        Returns `eval/score`, `eval/gold_score`, `eval/kl`, `eval/penalized_return`, `eval/length`, `eval/entropy`, each
        with `eval/<name>_ci95` (half the width of its 95% interval), `eval/distinct_1`, `eval/distinct_2`,
        `eval/eos_share`.
        """
        if self.progress is not None:
            self.progress.evaluating()
        result = evaluate(actor_critic, env=self.env, episodes=self.episodes, seed=self.seed)
        if self.progress is not None:
            found = [f"{title} {result[name]}" for name, title in SHOWN.items() if name in result.statistics]
            self.progress.evaluated("  ".join(found))
        self.first = result if tokens == 0 else self.first
        self.last = result
        if self.samples is not None:
            self.samples.add(tokens, result.records[: self.sample_count])
        metrics = {
            "eval/distinct_1": result.distinct_1,
            "eval/distinct_2": result.distinct_2,
            "eval/eos_share": result.finish_reasons["eos"],
        }
        for name, statistic in result.statistics.items():
            metrics |= {f"eval/{name}": statistic.mean, f"eval/{name}_ci95": statistic.half_width}
        return metrics
