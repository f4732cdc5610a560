"""Stop training where an update would be meaningless, before a weight changes.

Losses and gradient norms square returns in float32. Where a square overflows, the norm is infinite, and clipping
divides every gradient by it: they are all 0. The libraries go on, train nothing, and end as if they had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from textrl_env.errors import TrainingDiverged

# The squares of a few thousand such rewards still sum to far less than float32's largest number, 3.4e38.
MAX_REWARD = 1e15

RewardRange = tuple[float, float]


def check_rewards(rewards: np.ndarray) -> None:
    """Raise TrainingDiverged unless all rewards can be trained on. rewards: of any shape, with the KL in them."""
    low, high = reward_range(rewards)
    if not max(abs(low), abs(high)) <= MAX_REWARD:  # true of NaN too
        raise TrainingDiverged(
            f"rewards between {low:g} and {high:g} cannot be trained on: their squares overflow float32, so every "
            f"gradient would be clipped to 0. No weight was changed. Scale the reward to the order of 1; "
            f"{MAX_REWARD:g} is the limit"
        )


def check_log_probs(log_probs: np.ndarray) -> None:
    """Raise TrainingDiverged unless the log-probabilities of sampled tokens, of any shape, are finite."""
    broken = log_probs[~np.isfinite(log_probs)]
    if broken.size:
        raise TrainingDiverged(
            f"the policy's log-probability of a sampled token is {broken.flat[0]:g}: its weights overflow. Go back to "
            "the last checkpoint and lower learning_rate, or use dtype float32"
        )


def check_values(values: torch.Tensor) -> None:
    """Raise TrainingDiverged unless state values, of any shape, are finite. Huber's loss would go on with others."""
    if not torch.isfinite(values).all():
        raise TrainingDiverged(
            "the value of a state is not finite: the weights overflow. No weight was changed. Lower learning_rate, or "
            "use dtype float32"
        )


def reward_range(rewards: np.ndarray) -> RewardRange:
    """Return the least and the greatest of at least one reward; NaN where one is NaN."""
    return float(np.min(rewards)), float(np.max(rewards))


def check_gradient_norms(norms: Iterable[torch.Tensor], rewards: RewardRange | None = None) -> None:
    """Raise TrainingDiverged unless the norm of all gradients is finite.

    norms: of the single gradients. rewards: the range of those trained on, for the message.
    """
    parts = [norm.float() for norm in norms]
    if not parts:
        return
    total = float(torch.linalg.vector_norm(torch.stack([part.to(parts[0].device) for part in parts])))
    if not np.isfinite(total):
        seen = "" if rewards is None else f" The rewards trained on lie between {rewards[0]:g} and {rewards[1]:g}."
        raise TrainingDiverged(
            f"the gradient's norm is {total}: the update would train nothing, or break the weights. It was not made."
            f"{seen} Scale the reward to the order of 1, lower learning_rate, or use dtype float32"
        )


class GradientGuard:
    """Refuses an optimizer's step where the gradient's norm is not finite: `step` raises TrainingDiverged.

    It measures each gradient as the backward pass leaves it, since clipping hides an infinite norm.
    rewards: returns the range of the rewards trained on; may be set later.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rewards: Callable[[], RewardRange | None] | None = None):
        self.rewards = rewards
        self._norms: dict[torch.Tensor, torch.Tensor] = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(self._measure)
        optimizer.register_step_pre_hook(self._check)

    def _measure(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None  # the hook is called once there is one
        self._norms[parameter] = torch.linalg.vector_norm(parameter.grad.detach())

    def _check(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        norms, self._norms = list(self._norms.values()), {}
        check_gradient_norms(norms, None if self.rewards is None else self.rewards())
