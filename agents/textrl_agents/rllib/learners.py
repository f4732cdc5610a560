"""RLlib's learners with the one thing that cannot be configured: Adam's epsilon."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner

# Near the optimum gradients are small, and torch's default of 1e-8 would blow their noise up to full steps.
ADAM_EPSILON = 1e-5


class _AdamEpsilon:
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        super().configure_optimizers_for_module(module_id, config)  # type: ignore[misc]
        for _, optimizer in self.get_optimizers_for_module(module_id):  # type: ignore[attr-defined]
            for group in optimizer.param_groups:
                group["eps"] = ADAM_EPSILON


class TextPPOLearner(_AdamEpsilon, PPOTorchLearner):
    """Stock PPO."""


class TextAPPOLearner(_AdamEpsilon, APPOTorchLearner):
    """Stock APPO."""


class TextIMPALALearner(_AdamEpsilon, IMPALATorchLearner):
    """Stock IMPALA."""
