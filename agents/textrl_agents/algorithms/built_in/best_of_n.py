"""Best of n: sample n responses and answer with the one that the trained reward likes best. Nothing is trained.

Its distribution cannot be written down token by token, so its KL cannot be measured. `log n - (n - 1) / n` is reported:
an upper bound, nearly reached where no two responses have the same score (Beirami et al. 2024,
https://arxiv.org/abs/2401.01879). Every answer costs n responses, for ever; training costs once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, EvaluateFunction, Record, Trained, as_settings
from textrl_env.user_values import check_whole

if TYPE_CHECKING:  # what an algorithm is, is read without waiting for torch
    from textrl_agents.evaluation import Evaluation
    from textrl_agents.policy import Policy
    from textrl_env import TextGenVectorEnv
    from textrl_env.trajectory import Trajectory


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

    def __init__(self, policy: Policy, n: int):
        self.policy, self.n, self.tokens = policy, n, 0

    def evaluate(self, env: TextGenVectorEnv, episodes: int, seed: int) -> Evaluation:
        """Answer the prompts that `textrl_agents.evaluation.evaluate` takes with that seed, in its order.

        The KL of an answer is the bound, and its entropy that of the policy which drew the candidates.
        """
        from textrl_agents.algorithms.response_groups import best, groups, token_count
        from textrl_agents.evaluation.evaluation import Evaluation, check_episodes
        from textrl_agents.rollout import collect, drawn_prompts
        from textrl_agents.training.random_state import own_generator

        check_episodes(episodes)
        with own_generator(seed):
            prompts = drawn_prompts(env, episodes, seed)
            candidates = collect(self.policy, env, prompts=prompts, repeats=self.n, deterministic=False)
        self.tokens += token_count(candidates)
        answers = [charged(best(group), kl_bound(self.n)) for group in groups(candidates)]
        return Evaluation.of(env, answers, seed=seed)


def charged(response: Trajectory, kl: float) -> Trajectory:
    """Return the response with `kl` nats charged at its end in place of what was."""
    terms = np.zeros(len(response))
    terms[-1] = kl
    return replace(response, kl=terms, rewards=response.rewards + response.kl_coef * (response.kl - terms))


def kl_bound(n: int) -> float:
    """The greatest KL of best-of-n from the policy that it samples from, in nats a response."""
    return math.log(n) - (n - 1) / n


def train(cell: Cell, record: Record) -> Trained:
    """Nothing is trained; `tokens` grows with each evaluation by what all its candidates cost."""
    from textrl_agents.algorithms.cell_setup import initial_policy, training_env

    settings = as_settings(cell.algorithm, cell.settings, BestOfNSettings)
    chooser = BestOfN(initial_policy(training_env(cell, rows=1)), settings.n)
    trained = Trained(chooser.policy, tokens=0)

    def evaluation(env: TextGenVectorEnv, episodes: int, seed: int) -> Evaluation:
        result = chooser.evaluate(env, episodes, seed)
        trained.tokens = chooser.tokens
        return result

    trained.evaluation = evaluation
    return trained


def answers(policy: Policy, settings: Mapping[str, Any]) -> EvaluateFunction:
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
