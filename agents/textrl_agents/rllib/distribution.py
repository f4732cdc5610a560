"""An action distribution that is known at the tokens taken alone.

RLlib builds a distribution from the module's output and asks it for the log-probabilities of the batch's actions and
for entropies. Over a vocabulary those inputs would be logits of shape [B, T, V], the peak of an update's memory. The
module computes both numbers in chunks instead, and this distribution hands them on.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.distribution.distribution import Distribution


class TakenTokens(Distribution):
    """Log-probabilities of the actions taken, and entropies.

    inputs: float32 [..., 2], `(log-probability, entropy)` of each token, in nats.
    """

    def __init__(self, inputs: torch.Tensor):
        super().__init__()
        self.log_probs, self.entropies = inputs.unbind(dim=-1)

    def logp(self, value: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Of the actions the inputs were computed for, which `value` must be."""
        return self.log_probs

    def entropy(self) -> torch.Tensor:
        return self.entropies

    def kl(self, other: Distribution) -> torch.Tensor:
        """KL(self || other) estimated at the actions taken, which self sampled: k3, never negative.

        `r - 1 - log r` with `r = other / self` (Schulman, http://joschu.net/blog/kl-approx.html).
        """
        assert isinstance(other, TakenTokens)
        log_ratio = other.log_probs - self.log_probs
        return torch.expm1(log_ratio) - log_ratio

    def sample(self, *, sample_shape: Any = None) -> torch.Tensor:
        raise NotImplementedError("the module samples by itself; this distribution knows the tokens taken alone")

    rsample = sample

    @classmethod
    def from_logits(cls, logits: torch.Tensor, **kwargs: Any) -> TakenTokens:
        return cls(logits)

    @staticmethod
    def required_input_dim(space: Any, **kwargs: Any) -> int:
        return 2
