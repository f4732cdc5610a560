"""What fresh samples measure, and how two measurements of the same prompts differ."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textrl_agents.evaluation.statistic import Statistic
from textrl_agents.training.rlhf_metrics import FINISH_REASONS
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.text.prompt_splits import LABELS
from textrl_env.trajectory import Trajectory

MEASURES: dict[str, Callable[[Trajectory], float | None]] = {
    "score": lambda episode: episode.score,
    "gold_score": lambda episode: episode.gold_score,
    "kl": lambda episode: episode.kl_sum,  # nats, of the whole response
    "penalized_return": lambda episode: episode.episode_return,  # score - kl_coef * kl
    "length": len,  # tokens, with EOS
    "entropy": lambda episode: episode.surprisal,  # nats; its mean is the entropy of a response's distribution
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured. `statistics` has one entry for each of `MEASURES` (gold_score if the task has one).

    task: its name, or what was asked and judged instead. split: which prompts were answered, "train", "validation",
    "heldout", or "given" where nothing is known of what was trained on.
    """

    task: str
    split: str
    seed: int
    deterministic: bool
    kl_coef: float
    statistics: dict[str, Statistic]
    finish_reasons: dict[str, float]  # shares, which sum to 1
    distinct_1: float  # different tokens / tokens of all responses (Li et al. 2016, https://arxiv.org/abs/1510.03055)
    distinct_2: float  # the same for pairs of neighbours
    episodes: list[Trajectory] = field(repr=False)

    @classmethod
    def of(
        cls, env: TextGenVectorEnv, episodes: list[Trajectory], *, seed: int, deterministic: bool = False
    ) -> Evaluation:
        """What responses to `env`'s prompts measure; their KL is charged."""
        reasons = Counter(episode.finish_reason for episode in episodes)
        eos = set(env.rules.vocabulary.eos_ids.tolist())
        texts = [[token for token in episode.response_ids.tolist() if token not in eos] for episode in episodes]
        return cls(
            task=env.task.name,
            split=env.prompts.split,
            seed=seed,
            deterministic=deterministic,
            kl_coef=env.kl_penalty.coef,
            statistics={
                name: Statistic.of(_column(episodes, name))
                for name in MEASURES
                if name != "gold_score" or env.rules.gold is not None
            },
            finish_reasons={reason: reasons[reason] / len(episodes) for reason in FINISH_REASONS},
            distinct_1=_distinct(texts),
            distinct_2=_distinct([itertools.pairwise(ids) for ids in texts]),
            episodes=episodes,
        )

    def __getitem__(self, measure: str) -> Statistic:
        return self.statistics[measure]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Evaluation) and self.to_json() == other.to_json()

    @property
    def prompts(self) -> str:
        """Which prompts were answered, in words: "held-out prompts"."""
        return LABELS[self.split]

    def to_json(self, *, samples: bool = True) -> dict[str, Any]:
        """Numbers, text, lists and dicts only."""
        result: dict[str, Any] = {
            "task": self.task,
            "split": self.split,
            "prompts": self.prompts,
            "seed": self.seed,
            "deterministic": self.deterministic,
            "episodes": len(self.episodes),
            "kl_coef": self.kl_coef,
            **{name: statistic.to_json() for name, statistic in self.statistics.items()},
            "distinct_1": self.distinct_1,
            "distinct_2": self.distinct_2,
            "finish_reasons": self.finish_reasons,
        }
        if samples:
            result["samples"] = [_as_sample(episode) for episode in self.episodes]
        return result


def check_episodes(episodes: Any) -> None:
    """Raise ConfigError unless so many episodes can be evaluated."""
    if isinstance(episodes, bool) or not isinstance(episodes, (int, np.integer)) or episodes < 2:
        raise ConfigError(f"episodes must be a whole number >= 2 (an interval needs two), got {episodes!r}")


def paired_difference(before: Evaluation, after: Evaluation) -> dict[str, Statistic]:
    """`after - before` of each measure, prompt by prompt. Both need the same prompts, seed and number of episodes."""
    if [episode.prompt for episode in before.episodes] != [episode.prompt for episode in after.episodes]:
        raise ConfigError(
            "the two evaluations answer different prompts, so they cannot be paired: "
            "use the same task, prompts, seed, episodes and num_envs for both"
        )
    return {
        name: Statistic.of(_column(after.episodes, name) - _column(before.episodes, name))
        for name in before.statistics
        if name in after.statistics
    }


def _as_sample(episode: Trajectory) -> dict[str, Any]:
    return {
        "prompt": episode.prompt,
        "response": episode.response,
        "finish_reason": episode.finish_reason,
        "score": episode.score,
        "score_parts": dict(episode.score_parts),
        **{name: measure(episode) for name, measure in MEASURES.items()},
    }


def _column(episodes: Sequence[Trajectory], name: str) -> np.ndarray:
    return np.array([MEASURES[name](episode) for episode in episodes], dtype=np.float64)


def _distinct(groups: Iterable[Iterable[Any]]) -> float:
    counts = Counter(item for group in groups for item in group)
    return len(counts) / max(1, counts.total())
