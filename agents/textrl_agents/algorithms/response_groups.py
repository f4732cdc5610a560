"""Several responses to each prompt: in groups, the best of one, and what all of them cost and score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from textrl_env.trajectory import Trajectory


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
