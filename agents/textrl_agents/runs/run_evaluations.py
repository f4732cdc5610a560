"""Evaluations of a training run: when they are due, on which prompts, and what is written of them."""

from __future__ import annotations

from textrl_agents.evaluation import Evaluation, evaluate
from textrl_agents.evaluation.heldout_env import sibling_env
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import SampleFile
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.training.terminal import TrainingProgress
from textrl_env import TextGenVectorEnv
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks.splits import best_split

# Measures that are shown of an evaluation while training goes on, and their names there.
SHOWN = {
    "score": "score",
    "success": "success",
    "gold_score": "gold score",
    "kl": "KL",
    "length": "tokens a response",
}


class RunEvaluations:
    """Evaluates a policy on validation prompts every `every` tokens, and on held-out prompts before and after training.

    Whatever a run chooses, such as its best weights, it chooses by the validation prompts. Nothing is chosen by the
    held-out prompts, so what is reported of them holds for prompts that nobody has looked at.
    The random state of training is not touched: a run with evaluations has the same weights as one without.

    config: of the run. An `eval_every` of 0 evaluates before and after alone. `samples` responses to the same prompts
        are kept each time; to validation prompts where these are evaluated.
    env: of held-out prompts, in SAME_STEP and deferred mode. Its sibling serves the validation prompts.
    run: its samples.md gets the responses.
    evaluated_at: tokens of the checkpoint that a resumed run goes on from. What was due there is done already.
    """

    def __init__(
        self,
        config: TrainConfig,
        env: TextGenVectorEnv,
        run: RunFolder,
        *,
        progress: TrainingProgress | None = None,
        evaluated_at: int | None = None,
    ):
        self.config, self.every, self.progress = config, config.eval_every or 0, progress
        self.heldout = self.validation = env
        if self.every > 0 and best_split(env.task, "validation") != env.prompts.split:
            self.validation = sibling_env(env, env.num_envs, "validation")
        self.samples = SampleFile(run.samples) if config.samples else None
        self.before: Evaluation | None = None  # of held-out prompts; None in a resumed run
        self.after: Evaluation | None = None
        self._evaluated_at = evaluated_at

    def due(self, tokens: int, before: int) -> bool:
        """Whether to evaluate at `tokens`, after the rollout that began at `before`."""
        passed = self.every > 0 and tokens // self.every > before // self.every
        return tokens != self._evaluated_at and (passed or tokens == 0)

    def run(self, actor_critic: CausalLMActorCritic, tokens: int, *, done: bool = False) -> dict[str, float]:
        """Evaluate now and write samples. done: whether training is over.

        Returns for each split that was evaluated `eval_<split>/score`, `.../gold_score`, `.../kl`,
        `.../penalized_return`, `.../length`, `.../entropy`, each also with `_ci95` behind it (half the width of its 95%
        interval), `.../distinct_1`, `.../distinct_2` and `.../eos_share`. The split is "validation" or "heldout", or
        "train" where there are no such prompts.
        """
        if self.progress is not None:
            self.progress.evaluating()
        results: list[Evaluation] = []
        if self.every > 0:
            results.append(self._evaluated(actor_critic, self.validation))
        if tokens == 0 or done:
            same = results and self.heldout is self.validation
            reported = results[0] if same else self._evaluated(actor_critic, self.heldout)
            self.before = reported if tokens == 0 else self.before
            self.after = reported if done else self.after
            results += [] if same else [reported]
        return self._written(results, tokens)

    def add_last(self, result: Evaluation, tokens: int, *, note: str = "") -> dict[str, float]:
        """Take an evaluation of held-out prompts, made elsewhere, as the one after training. Returns what `run` does.

        note: what the samples' reader must know of them.
        """
        self.after = result
        return self._written([result], tokens, note)

    def _written(self, results: list[Evaluation], tokens: int, note: str = "") -> dict[str, float]:
        """Show the results, add samples of the first, and return the metrics of all."""
        if self.progress is not None:
            self.progress.evaluated("; ".join(_shown(result) for result in results))
        if self.samples is not None and results:
            shown = results[0].episodes[: self.config.samples]
            self.samples.add(tokens, shown, prompts=results[0].prompts, note=note)
        return {name: value for result in results for name, value in _metrics(result).items()}

    def _evaluated(self, actor_critic: CausalLMActorCritic, env: TextGenVectorEnv) -> Evaluation:
        return evaluate(actor_critic, env=env, episodes=self.config.eval_episodes, seed=self.config.seed)


def metric(split: str, measure: str) -> str:
    """Return the name under which a run logs a measure, such as `eval_validation/score`."""
    return f"eval_{split}/{measure}"


def _shown(result: Evaluation) -> str:
    found = [f"{title} {result[name]}" for name, title in SHOWN.items() if name in result.statistics]
    return f"{result.prompts}: {'  '.join(found)}"


def _metrics(result: Evaluation) -> dict[str, float]:
    metrics = {
        metric(result.split, "distinct_1"): result.distinct_1,
        metric(result.split, "distinct_2"): result.distinct_2,
        metric(result.split, "eos_share"): result.finish_reasons["eos"],
    }
    for measure, statistic in result.statistics.items():
        name = metric(result.split, measure)
        metrics |= {name: statistic.mean, f"{name}_ci95": statistic.half_width}
    return metrics
