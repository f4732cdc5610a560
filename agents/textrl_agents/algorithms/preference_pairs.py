"""Preference pairs for the offline algorithms: of several responses to a prompt, the best and the worst by the reward.

They are sampled here, by the same decoder and within the same budget as everything else in the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from textrl_agents.algorithms.response_groups import Response, Samples, prompt_stream, sample_groups
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic


class Pair(NamedTuple):
    """Two responses to one prompt; `chosen` has the higher score."""

    chosen: Response
    rejected: Response


class Collected(NamedTuple):
    """Pairs, and the tokens of all responses sampled for them."""

    pairs: list[Pair]
    tokens: int


def collect_pairs(
    policy: CausalLMActorCritic,
    env: TextGenVectorEnv,
    generator: np.random.Generator,
    *,
    n: int,
    budget: int,
    parts: int = 4,
    report: Callable[[int, Samples], None] = lambda tokens, samples: None,
) -> Collected:
    """Pairs from `n` responses to each of uniformly drawn prompts, until `budget` tokens are generated.

    parts: the budget is sampled in as many; after each, `report` gets the tokens so far and the part's samples.
    Raises ConfigError where every prompt's responses have equal scores.
    """
    prompts = prompt_stream(env.prompts, generator)
    pairs: list[Pair] = []
    tokens = 0
    for part in range(1, parts + 1):
        share = budget * part // parts - tokens
        if share <= 0:
            continue
        samples = sample_groups(policy, env, prompts, n, budget=share)
        tokens += samples.tokens
        pairs += [pair for group in samples.groups if (pair := pair_of(group)) is not None]
        report(tokens, samples)
    if not pairs:
        raise ConfigError(
            f"no pairs in {tokens} tokens: the {n} responses to each prompt have equal scores. "
            "Raise the budget or n, or use a reward that tells responses apart."
        )
    return Collected(pairs, tokens)


def pair_of(group: list[Response]) -> Pair | None:
    """The best and the worst response, of equal ones the first; None where all have one score."""
    pair = Pair(max(group, key=lambda response: response.score), min(group, key=lambda response: response.score))
    return pair if pair.chosen.score > pair.rejected.score else None
