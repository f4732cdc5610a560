"""Several responses to each prompt: in groups, the best of each, what they cost, and pairs of better and worse."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from textrl_env.errors import ConfigError
from textrl_env.trajectory import Trajectory

if TYPE_CHECKING:  # what an algorithm is, is read without waiting for torch
    from textrl_agents.policy import Policy
    from textrl_env import TextGenVectorEnv


def groups(responses: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """The responses to each prompt; they lie side by side, as `collect` returns them."""
    return [list(group) for _, group in itertools.groupby(responses, key=lambda response: response.group)]


def best(group: Sequence[Trajectory]) -> Trajectory:
    """The response with the highest score; of equal ones the first."""
    return max(group, key=lambda response: response.score)


def token_count(responses: Sequence[Trajectory]) -> int:
    """All tokens that were sampled."""
    return sum(map(len, responses))


def means(responses: Sequence[Trajectory]) -> dict[str, float]:
    """`score`, `kl` (nats a response) and `length`, as a point of the learning curve takes them."""
    return {
        "score": float(np.mean([response.score for response in responses])),
        "kl": float(np.mean([response.kl_sum for response in responses])),
        "length": token_count(responses) / len(responses),
    }


class Pair(NamedTuple):
    """Two responses to one prompt; `chosen` has the higher score."""

    chosen: Trajectory
    rejected: Trajectory


class CollectedPairs(NamedTuple):
    """Pairs, and the tokens of all responses sampled for them."""

    pairs: list[Pair]
    tokens: int


def sampled_in_parts(
    policy: Policy, env: TextGenVectorEnv, generator: np.random.Generator, *, n: int, budget: int, parts: int
) -> Iterator[tuple[int, int, list[Trajectory]]]:
    """Sample `n` responses to each of uniformly drawn prompts, until `budget` tokens are generated in equal parts.

    Yields after each part its number, from 1 on, the tokens so far and its responses. The policy may change in between.
    """
    from textrl_agents.rollout import collect, prompt_stream

    prompts = prompt_stream(env.prompts, generator)
    tokens = 0
    for part in range(1, parts + 1):
        share = budget * part // parts - tokens
        if share > 0:  # else the last part took more than its own
            sampled = collect(policy, env, prompts=prompts, repeats=n, budget=share)
            tokens += token_count(sampled)
            yield part, tokens, sampled


def collect_pairs(
    policy: Policy,
    env: TextGenVectorEnv,
    generator: np.random.Generator,
    *,
    n: int,
    budget: int,
    report: Callable[[int, list[Trajectory]], None] = lambda tokens, sampled: None,
) -> CollectedPairs:
    """Pair what `sampled_in_parts` gives; after each part `report` gets the tokens so far and the part's responses.

    Raises ConfigError where every prompt's responses have equal scores.
    """
    pairs: list[Pair] = []
    tokens = 0
    for _, tokens, sampled in sampled_in_parts(policy, env, generator, n=n, budget=budget, parts=4):
        pairs += [pair for group in groups(sampled) if (pair := pair_of(group)) is not None]
        report(tokens, sampled)
    if not pairs:
        raise ConfigError(
            f"no pairs in {tokens} tokens: the {n} responses to each prompt have equal scores. "
            "Raise the budget or n, or use a reward that tells responses apart."
        )
    return CollectedPairs(pairs, tokens)


def pair_of(group: Sequence[Trajectory]) -> Pair | None:
    """The best and the worst response, of equal ones the first; None where all have one score."""
    pair = Pair(best(group), min(group, key=lambda response: response.score))
    return pair if pair.chosen.score > pair.rejected.score else None
