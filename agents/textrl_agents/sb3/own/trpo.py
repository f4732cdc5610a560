"""sb3-contrib's TRPO with one method replaced: all gradients in one backward pass instead of one for each weight.

Stock TRPO differentiates the divergence for each weight by itself. Each of those passes keeps a graph of its own, and
every step of the conjugate gradient runs through all of them: the cost grows with the square of the number of layers.
"""

from __future__ import annotations

import sb3_contrib
import torch
from torch import nn

from textrl_agents.sb3.buffers.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.training.divergence import check_gradient_norms


class TRPO(sb3_contrib.TRPO):
    """Trust region policy optimisation (Schulman et al. 2015, https://arxiv.org/abs/1502.05477).

    Arguments: stock TRPO's.
    """

    def _compute_actor_grad(
        self, kl_div: torch.Tensor, policy_objective: torch.Tensor
    ) -> tuple[list[nn.Parameter], torch.Tensor, torch.Tensor, list[tuple[int, ...]]]:
        """The actor's weights, the gradients of objective and divergence [P], and the weights' shapes."""
        named = [(name, weight) for name, weight in self.policy.named_parameters() if weight.requires_grad]
        weights = [weight for name, weight in named if "value" not in name]  # by name, as stock TRPO does
        divergence = torch.autograd.grad(kl_div, weights, create_graph=True, allow_unused=True)
        used = [(weight, slope) for weight, slope in zip(weights, divergence, strict=True) if slope is not None]
        actor = [weight for weight, _ in used]
        objective = torch.autograd.grad(policy_objective, actor, retain_graph=True)
        # No optimizer takes this step, so no guard sees it, and the line search would refuse it without a word.
        buffer = self.rollout_buffer
        rewards = buffer.reward_range() if isinstance(buffer, EpisodeRolloutBuffer) else None
        check_gradient_norms(map(torch.linalg.vector_norm, objective), rewards)
        shapes: list[tuple[int, ...]] = [tuple(weight.shape) for weight in actor]
        return (
            actor,
            torch.cat([slope.reshape(-1) for slope in objective]),
            torch.cat([slope.reshape(-1) for _, slope in used]),
            shapes,
        )
