"""Advantages of whole responses, as REINFORCE, RLOO and GRPO define them: pure functions of returns."""

from __future__ import annotations

import numpy as np


def reward_to_go(rewards: np.ndarray) -> np.ndarray:
    """The undiscounted sum of the rewards from each token on, [T] of rewards [T]."""
    to_go: np.ndarray = np.cumsum(rewards[::-1])[::-1]
    return to_go


def leave_one_out(returns: np.ndarray) -> np.ndarray:
    """Each response's return minus the mean return of the others to its prompt, [G, K] of returns [G, K], K >= 2.

    Kool et al. 2019; RLOO of Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, section 3.2.
    """
    size = returns.shape[1]
    compared: np.ndarray = (returns - returns.mean(axis=1, keepdims=True)) * (size / (size - 1))
    return compared


def group_relative(returns: np.ndarray, *, scale: bool = True, epsilon: float = 1e-4) -> np.ndarray:
    """Each response's return minus its group's mean, over the group's standard deviation, [G, K] of returns [G, K].

    GRPO of Shao et al. 2024, https://arxiv.org/abs/2402.03300, equation 3 and section 4.1.2.
    scale: False leaves the division out (Liu et al. 2025, https://arxiv.org/abs/2503.20783): it makes a prompt whose
        responses are nearly alike weigh as much as any other. epsilon: added to the deviation.
    """
    centred: np.ndarray = returns - returns.mean(axis=1, keepdims=True)
    if scale:  # with K - 1 in the denominator, as in TRL
        centred = centred / (returns.std(axis=1, ddof=1, keepdims=True) + epsilon)
    return centred
