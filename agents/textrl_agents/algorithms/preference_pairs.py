"""Preference pairs for the offline algorithms: of several responses to a prompt, the best and the worst by the reward.

They are sampled here, by the same decoder and within the same budget as everything else in the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from textrl_agents.algorithms.response_groups import best, groups, token_count
from textrl_agents.policy import Policy
from textrl_agents.rollout import collect, prompt_stream
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.trajectory import Trajectory


class Pair(NamedTuple):
    """Two responses to one prompt; `chosen` has the higher score."""

    chosen: Trajectory
    rejected: Trajectory


class Collected(NamedTuple):
    """Pairs, and the tokens of all responses sampled for them."""

    pairs: list[Pair]
    tokens: int


def collect_pairs(
    policy: Policy,
    env: TextGenVectorEnv,
    generator: np.random.Generator,
    *,
    n: int,
    budget: int,
    parts: int = 4,
    report: Callable[[int, list[Trajectory]], None] = lambda tokens, sampled: None,
) -> Collected:
    """Pairs from `n` responses to each of uniformly drawn prompts, until `budget` tokens are generated.

    parts: the budget is sampled in as many; after each, `report` gets the tokens so far and the part's responses.
    Raises ConfigError where every prompt's responses have equal scores.
    """
    prompts = prompt_stream(env.prompts, generator)
    pairs: list[Pair] = []
    tokens = 0
    for part in range(1, parts + 1):
        share = budget * part // parts - tokens
        if share <= 0:
            continue
        sampled = collect(policy, env, prompts=prompts, repeats=n, budget=share)
        tokens += token_count(sampled)
        pairs += [pair for group in groups(sampled) if (pair := pair_of(group)) is not None]
        report(tokens, sampled)
    if not pairs:
        raise ConfigError(
            f"no pairs in {tokens} tokens: the {n} responses to each prompt have equal scores. "
            "Raise the budget or n, or use a reward that tells responses apart."
        )
    return Collected(pairs, tokens)


def pair_of(group: list[Trajectory]) -> Pair | None:
    """The best and the worst response, of equal ones the first; None where all have one score."""
    pair = Pair(best(group), min(group, key=lambda response: response.score))
    return pair if pair.chosen.score > pair.rejected.score else None
