"""Best of n: sample n responses and answer with the one that the trained reward likes best. Nothing is trained.

Its distribution cannot be written down token by token, so its KL is not measured: `log n - (n - 1) / n` is reported, an
upper bound on it that is nearly reached where no two responses have the same score (Beirami et al. 2024,
https://arxiv.org/abs/2401.01879). It costs n responses at every answer, for ever, where training costs once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, EvaluateFunction, Record, Trained, as_settings, settings_of
from textrl_agents.training.argument_checks import check_whole
from textrl_env.errors import ConfigError

if TYPE_CHECKING:  # what an algorithm is, is read without waiting for torch
    from textrl_agents.algorithms.response_groups import Response
    from textrl_agents.evaluation.fresh_samples import Evaluation
    from textrl_env import TextGenVectorEnv
    from textrl_env.models import CausalLMActorCritic
    from textrl_env.text.prompts import Prompt


@dataclass(frozen=True)
class BestOfNSettings:
    """n: candidates for each answer."""

    n: int = 4

    def __post_init__(self) -> None:
        check_whole("n", self.n, 1)


class BestOfN:
    """Answers prompts with the best of `n` responses.

    tokens: generated so far, candidates that were not chosen included.
    """

    def __init__(self, policy: CausalLMActorCritic, n: int):
        self.policy, self.n, self.tokens = policy, n, 0

    def evaluate(self, env: TextGenVectorEnv, episodes: int, seed: int) -> Evaluation:
        """Answers to the prompts that `textrl_agents.evaluation.evaluate` takes with that seed, in its order.

        A record's `kl` is the bound, and its `entropy` that of the policy which drew the candidates.
        """
        import numpy as np
        import torch

        from textrl_agents.algorithms.response_groups import sample_groups
        from textrl_agents.evaluation.fresh_samples import evaluation_of, record_of

        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            torch.manual_seed(seed)
            samples = sample_groups(self.policy, env, heldout_prompts(env, episodes, seed), self.n)
        self.tokens += samples.tokens
        chosen = [best(group) for group in samples.groups]
        kl, coef = kl_bound(self.n), env.kl_penalty.coef
        records = [
            record_of(response.episode, kl=kl, kl_coef=coef, entropy=float(-response.log_probs.sum(dtype=np.float64)))
            for response in chosen
        ]
        return evaluation_of(env, records, [response.episode.response_ids for response in chosen], seed=seed)


def best(group: list[Response]) -> Response:
    """The response with the highest score; of equal ones the first."""
    return max(group, key=lambda response: response.score)


def kl_bound(n: int) -> float:
    """The most that best-of-n can differ from what it samples from, in nats a response."""
    return math.log(n) - (n - 1) / n


def heldout_prompts(env: TextGenVectorEnv, episodes: int, seed: int) -> list[Prompt]:
    """The prompts that `env`'s rows draw after `reset(seed=seed)`, ceil(episodes / rows) each, round by round."""
    import gymnasium

    if episodes < 2:
        raise ConfigError(f"episodes must be a whole number >= 2 (an interval needs two), got {episodes}")
    generators = [gymnasium.utils.seeding.np_random(seed + row)[0] for row in range(env.num_envs)]
    rounds = math.ceil(episodes / env.num_envs)
    return [env.prompts.sample(generator) for _ in range(rounds) for generator in generators]


def train(cell: Cell, record: Record) -> Trained:
    """Nothing is trained; `tokens` grows with each evaluation by what all its candidates cost."""
    from textrl_agents.algorithms.cell_envs import training_env
    from textrl_agents.algorithms.initial_policy import initial_policy

    chooser = BestOfN(initial_policy(training_env(cell, rows=1)), settings_of(cell, BestOfNSettings).n)
    trained = Trained(chooser.policy, tokens=0)

    def evaluation(env: TextGenVectorEnv, episodes: int, seed: int) -> Evaluation:
        result = chooser.evaluate(env, episodes, seed)
        trained.tokens = chooser.tokens
        return result

    trained.evaluation = evaluation
    return trained


def answers(policy: CausalLMActorCritic, settings: Mapping[str, Any]) -> EvaluateFunction:
    """The best of n responses of `policy` to each prompt."""
    return BestOfN(policy, as_settings("best_of_n", settings, BestOfNSettings).n).evaluate


ALGORITHM = Algorithm(
    "best_of_n",
    train,
    "the best of n samples by the reward; no training",
    settings={"n": 4},
    arguments=BestOfNSettings,
    answers=answers,
)
