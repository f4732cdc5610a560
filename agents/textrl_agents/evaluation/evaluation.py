"""Fresh samples of a policy: what they measure, and how two measurements of the same prompts differ.

The prompts depend on the seed alone, so two policies evaluated with one seed answer the same prompts, and their
difference can be taken prompt by prompt.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Unpack

import numpy as np
from gymnasium.vector import AutoresetMode

from textrl_agents.evaluation.heldout_env import EVAL_ROWS, heldout_env
from textrl_agents.policy import Policy
from textrl_agents.rollout import collect
from textrl_agents.training.random_state import own_generator
from textrl_agents.training.rlhf_metrics import finish_shares, successes
from textrl_env import Task, TextGenVectorEnv
from textrl_env.arguments import EnvArguments
from textrl_env.errors import ConfigError
from textrl_env.text.prompt_splits import LABELS
from textrl_env.trajectory import Trajectory

NORMAL_95 = 1.959964  # two-sided 95% quantile of the standard normal distribution

MEASURES: dict[str, Callable[[Trajectory], float | None]] = {
    "score": lambda episode: episode.score,
    "gold_score": lambda episode: episode.gold_score,
    "kl": lambda episode: episode.kl_sum,  # nats, of the whole response
    "penalized_return": lambda episode: episode.episode_return,  # score - kl_coef * kl
    "length": len,  # tokens, with EOS
    "entropy": lambda episode: episode.surprisal,  # nats; its mean is the entropy of a response's distribution
    "turns": lambda episode: None if episode.turns is None else len(episode.turns),
}
NAMES = (*MEASURES, "success")
"""What may be measured. A success is known of a set of episodes, see `successes`."""


class Statistic(NamedTuple):
    """The mean of independent samples and its 95% interval, by the normal approximation."""

    mean: float
    std: float  # of one sample, with n - 1 in the denominator
    half_width: float  # the interval is mean +- half_width
    samples: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Statistic:
        """Summarise at least two samples."""
        array = np.asarray(values, dtype=np.float64)
        std = float(array.std(ddof=1))
        return cls(float(array.mean()), std, NORMAL_95 * std / math.sqrt(len(array)), len(array))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the mean."""
        return self.mean - self.half_width, self.mean + self.half_width

    def to_json(self) -> dict[str, float | int | list[float]]:
        """Numbers and lists only."""
        return {"mean": self.mean, "std": self.std, "ci95": list(self.interval), "samples": self.samples}

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half_width:.3f}"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured. `statistics` has one entry for each of `NAMES` that the episodes have: a gold score,
    turns and success are not those of every task.

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
        """Measure responses to `env`'s prompts whose KL is charged."""
        eos = set(env.rules.vocabulary.eos_ids.tolist())
        texts = [[token for token in episode.response_ids.tolist() if token not in eos] for episode in episodes]
        return cls(
            task=env.task.name,
            split=env.prompts.split,
            seed=seed,
            deterministic=deterministic,
            kl_coef=env.kl_penalty.coef,
            statistics={
                name: Statistic.of(column) for name in NAMES if (column := _column(episodes, name)) is not None
            },
            finish_reasons=finish_shares(episodes),
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


def evaluate(
    policy: Policy,
    task: str | Task = "sentiment",
    *,
    env: TextGenVectorEnv | None = None,
    episodes: int = 256,
    seed: int = 0,
    num_envs: int = EVAL_ROWS,
    deterministic: bool | None = None,
    **env_kwargs: Unpack[EnvArguments],
) -> Evaluation:
    """Sample at least `episodes` episodes, to ceil(episodes / rows) prompts of each row.

    The prompts are the task's held-out ones, or those of `split`; its training prompts where there are none. The
    caller's own `prompts` are all taken where there is no `split`. `Evaluation.split` says which prompts they were.

    env: an environment to use instead of building one from `task` and `env_kwargs`; in SAME_STEP and deferred mode.
    deterministic: greedy decoding; None decodes as the policy was trained to be. The KL is then that of the greedy
        policy, a point mass, and the entropy is 0.

    Neither the caller's random state nor the policy changes. Raises TrainingDiverged where a log-probability is not
    finite.
    """
    check_episodes(episodes)
    if deterministic is None:
        deterministic = policy.greedy
    if env is None:
        arguments = {"task": task, "sampling": policy.sampling, "device": policy.device, **env_kwargs}
        with own_generator(seed):  # a model may draw its weights
            env = heldout_env(arguments, episodes=episodes, rows=num_envs, split=env_kwargs.get("split"))
    elif env_kwargs:
        raise ConfigError(f"env is built already; give it these arguments itself: {', '.join(env_kwargs)}")
    if env.autoreset_mode is not AutoresetMode.SAME_STEP or env.rules.kl_mode != "deferred":
        raise ConfigError("evaluate needs an environment with autoreset_mode='SAME_STEP' and kl_mode='deferred'")
    with own_generator(seed):
        sampled = collect(policy, env, episodes=episodes, seed=seed, deterministic=deterministic)
    return Evaluation.of(env, sampled, seed=seed, deterministic=deterministic)


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
        name: Statistic.of(later - earlier)
        for name in before.statistics
        if (earlier := _column(before.episodes, name)) is not None
        and (later := _column(after.episodes, name)) is not None
    }


def _as_sample(episode: Trajectory) -> dict[str, Any]:
    return {
        "prompt": episode.prompt,
        "response": episode.response,
        "finish_reason": episode.finish_reason,
        "score": episode.score,
        "score_parts": dict(episode.score_parts),
        **{name: measure(episode) for name, measure in MEASURES.items() if name != "turns"},
    } | ({} if episode.turns is None else {"turns": episode.turns, "success": episode.success})


def _column(episodes: Sequence[Trajectory], name: str) -> np.ndarray | None:
    """A measure of each episode, float64 [N]; None where not all of them have it."""
    found = successes(episodes) if name == "success" else [MEASURES[name](episode) for episode in episodes]
    return None if not found or None in found else np.array(found, dtype=np.float64)


def _distinct(groups: Iterable[Iterable[Any]]) -> float:
    counts = Counter(item for group in groups for item in group)
    return len(counts) / max(1, counts.total())
