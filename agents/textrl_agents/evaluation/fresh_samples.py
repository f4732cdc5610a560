"""Fresh samples of a policy, scored and compared with the reference; of a task's held-out prompts where it has some.

Every row of the environment contributes the same number of episodes. Taking the first that finish would favour short
responses. A row's prompts depend on the seed alone, so two policies evaluated with one seed answer the same prompts,
and their difference can be taken prompt by prompt.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from textrl_agents.evaluation.heldout_env import EVAL_ROWS, heldout_env
from textrl_agents.evaluation.statistic import Statistic
from textrl_agents.training.divergence import check_log_probs
from textrl_agents.training.rlhf_metrics import FINISH_REASONS
from textrl_env import Task, TextGenVectorEnv
from textrl_env.arguments import EnvArguments
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, pack
from textrl_env.text.prompt_splits import LABELS
from textrl_env.trajectory import Trajectory

MEASURES = ("score", "gold_score", "kl", "penalized_return", "length", "entropy")


@dataclass(frozen=True)
class SampleRecord:
    """One episode of an evaluation."""

    prompt: Any  # str, or chat messages
    response: str
    finish_reason: str
    score: float
    score_parts: dict[str, float]
    gold_score: float | None
    kl: float  # nats, of the whole response
    penalized_return: float  # score - kl_coef * kl
    length: int  # tokens, with EOS
    entropy: float  # nats, -log pi of the whole response; its mean is the entropy of the response's distribution


@dataclass(frozen=True)
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
    records: list[SampleRecord] = field(repr=False)

    def __getitem__(self, measure: str) -> Statistic:
        return self.statistics[measure]

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
            "episodes": len(self.records),
            "kl_coef": self.kl_coef,
            **{name: statistic.to_json() for name, statistic in self.statistics.items()},
            "distinct_1": self.distinct_1,
            "distinct_2": self.distinct_2,
            "finish_reasons": self.finish_reasons,
        }
        if samples:
            result["samples"] = [dataclasses.asdict(record) for record in self.records]
        return result


def evaluate(
    actor_critic: CausalLMActorCritic,
    task: str | Task = "sentiment",
    *,
    env: TextGenVectorEnv | None = None,
    episodes: int = 256,
    seed: int = 0,
    num_envs: int = EVAL_ROWS,
    deterministic: bool | None = None,
    **env_kwargs: Unpack[EnvArguments],
) -> Evaluation:
    """Sample at least `episodes` episodes: ceil(episodes / rows) from each row.

    The prompts are the task's held-out ones, or those of `split`, where it has any; else its training prompts.
    `prompts` of the caller's own are taken whole without a `split`. `Evaluation.split` says which prompts these
    were.

    env: an environment to use instead of building one from `task` and `env_kwargs`; in SAME_STEP and deferred mode.
    deterministic: greedy decoding; None as the policy was trained to be decoded. The KL is then that of the greedy
        policy, a point mass, and the entropy is 0.

    Neither the caller's random state nor the policy changes. Raises TrainingDiverged where a log-probability is not
    finite.
    """
    if isinstance(episodes, bool) or not isinstance(episodes, (int, np.integer)) or episodes < 2:
        raise ConfigError(f"episodes must be a whole number >= 2 (an interval needs two), got {episodes!r}")
    if deterministic is None:
        deterministic = actor_critic.greedy
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        if env is None:
            arguments = {"task": task, "sampling": actor_critic.sampling, "device": actor_critic.device, **env_kwargs}
            env = heldout_env(arguments, episodes=episodes, rows=num_envs, split=env_kwargs.get("split"))
        elif env_kwargs:
            raise ConfigError(f"env is built already; give it these arguments itself: {', '.join(env_kwargs)}")
        _check(actor_critic, env)
        torch.manual_seed(seed)
        actor_critic.clear_cache()
        try:
            return _measure(actor_critic, env, math.ceil(episodes / env.num_envs), seed, deterministic)
        finally:
            # What comes next finds the decoder as a fresh one, so that an evaluation leaves no trace, not even in
            # the last bit of a log-probability.
            actor_critic.clear_cache()


def paired_difference(before: Evaluation, after: Evaluation) -> dict[str, Statistic]:
    """`after - before` of each measure, prompt by prompt. Both need the same prompts, seed and number of episodes."""
    if [record.prompt for record in before.records] != [record.prompt for record in after.records]:
        raise ConfigError(
            "the two evaluations answer different prompts, so they cannot be paired: "
            "use the same task, prompts, seed, episodes and num_envs for both"
        )
    return {
        name: Statistic.of(_column(after.records, name) - _column(before.records, name))
        for name in before.statistics
        if name in after.statistics
    }


def _check(actor_critic: CausalLMActorCritic, env: TextGenVectorEnv) -> None:
    if env.autoreset_mode is not AutoresetMode.SAME_STEP or env.rules.kl_mode != "deferred":
        raise ConfigError("evaluate needs an environment with autoreset_mode='SAME_STEP' and kl_mode='deferred'")
    if env.max_episode_steps is not None and env.max_episode_steps < env.rules.max_new_tokens:
        raise ConfigError(
            f"evaluate judges whole responses, and max_episode_steps={env.max_episode_steps} of the environment cuts "
            "them off: build it without"
        )
    if env.rules.vocabulary.size != actor_critic.vocabulary.size:
        raise ConfigError(
            f"the policy emits {actor_critic.vocabulary.size} tokens and the environment's model "
            f"{env.rules.vocabulary.size}: pass model= the reference this policy was trained from"
        )


def _measure(
    actor_critic: CausalLMActorCritic, env: TextGenVectorEnv, per_row: int, seed: int, deterministic: bool
) -> Evaluation:
    rows = env.num_envs
    observations, _ = env.reset(seed=seed)
    prompt_ids = [ids[ids >= 0] for ids in observations]
    starts, counts = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    steps: list[torch.Tensor] = []  # log-probs [N] of each step
    finished: list[tuple[int, int, int, np.ndarray, Trajectory]] = []  # round, row, first step, prompt, episode
    while (counts < per_row).any():
        on_device = torch.from_numpy(observations).to(actor_critic.device)
        tokens, log_probs, _ = actor_critic.step(on_device, deterministic=deterministic)
        steps.append(log_probs)
        observations, *_ = env.step(tokens.cpu().numpy())
        assert env.transition is not None
        for row, episode in env.transition.episodes:
            if counts[row] < per_row:
                finished.append((int(counts[row]), row, int(starts[row]), prompt_ids[row], episode))
            counts[row] += 1
            starts[row] = len(steps)
            prompt_ids[row] = observations[row][observations[row] >= 0]
    finished.sort(key=lambda entry: entry[:2])
    return _summary(actor_critic, env, finished, torch.stack(steps), seed, deterministic)


def _summary(
    actor_critic: CausalLMActorCritic,
    env: TextGenVectorEnv,
    finished: list[tuple[int, int, int, np.ndarray, Trajectory]],
    step_log_probs: torch.Tensor,
    seed: int,
    deterministic: bool,
) -> Evaluation:
    responses = [entry[-1].response_ids for entry in finished]
    lengths = np.array([len(ids) for ids in responses])
    at_step = np.concatenate([start + np.arange(n) for (_, _, start, *_), n in zip(finished, lengths, strict=True)])
    at_row = np.repeat([row for _, row, *_ in finished], lengths)
    log_probs = step_log_probs[torch.from_numpy(at_step), torch.from_numpy(at_row)]
    check_log_probs(log_probs.cpu().numpy())
    kls = response_kls(actor_critic, env, [entry[3] for entry in finished], responses, log_probs)
    bounds = np.cumsum(lengths) - lengths
    surprisals = np.add.reduceat(-log_probs.double().cpu().numpy(), bounds)
    records = [
        record_of(episode, kl=float(kl), kl_coef=env.kl_penalty.coef, entropy=float(surprisal))
        for (*_, episode), kl, surprisal in zip(finished, kls, surprisals, strict=True)
    ]
    return evaluation_of(env, records, responses, seed=seed, deterministic=deterministic)


def response_kls(
    actor_critic: CausalLMActorCritic,
    env: TextGenVectorEnv,
    prompt_ids: Sequence[np.ndarray],
    response_ids: Sequence[np.ndarray],
    log_probs: torch.Tensor,
) -> np.ndarray:
    """The KL from the reference of n whole responses by the environment's estimator, float64 [n], nats.

    log_probs: the policy's, float [M], of all response tokens in their order.
    """
    trajectories = [Trajectory.of_response(*pair) for pair in zip(prompt_ids, response_ids, strict=True)]
    packed = pack(trajectories, actor_critic.device)
    kl_terms = env.kl_penalty(packed, log_probs.to(actor_critic.device), actor_critic).kl
    lengths = np.array([len(ids) for ids in response_ids])
    return np.add.reduceat(kl_terms.double().cpu().numpy(), np.cumsum(lengths) - lengths)


def record_of(episode: Trajectory, *, kl: float, kl_coef: float, entropy: float) -> SampleRecord:
    """A finished episode as one of an evaluation."""
    return SampleRecord(
        prompt=episode.prompt,
        response=episode.response,
        finish_reason=episode.finish_reason,
        score=episode.score,
        score_parts=episode.score_parts,
        gold_score=episode.gold_score,
        kl=kl,
        penalized_return=float(episode.score - kl_coef * kl),
        length=len(episode.response_ids),
        entropy=entropy,
    )


def evaluation_of(
    env: TextGenVectorEnv,
    records: list[SampleRecord],
    response_ids: Sequence[np.ndarray],
    *,
    seed: int,
    deterministic: bool = False,
) -> Evaluation:
    """What `records` measure, of responses sampled in `env`; response_ids: their tokens."""
    reasons = Counter(record.finish_reason for record in records)
    eos = set(env.rules.vocabulary.eos_ids.tolist())
    texts = [[token for token in ids.tolist() if token not in eos] for ids in response_ids]
    return Evaluation(
        task=env.task.name,
        split=env.prompts.split,
        seed=seed,
        deterministic=deterministic,
        kl_coef=env.kl_penalty.coef,
        statistics={
            name: Statistic.of(_column(records, name))
            for name in MEASURES
            if name != "gold_score" or env.rules.gold is not None
        },
        finish_reasons={reason: reasons[reason] / len(records) for reason in FINISH_REASONS},
        distinct_1=_distinct(texts),
        distinct_2=_distinct([itertools.pairwise(ids) for ids in texts]),
        records=records,
    )


def _column(records: Sequence[SampleRecord], name: str) -> np.ndarray:
    return np.array([getattr(record, name) for record in records], dtype=np.float64)


def _distinct(groups: Iterable[Iterable[Any]]) -> float:
    counts = Counter(item for group in groups for item in group)
    return len(counts) / max(1, counts.total())
