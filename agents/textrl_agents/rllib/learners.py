"""RLlib's learners with what cannot be configured: Adam's epsilon, and optimizers of bfloat16 weights."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner

from textrl_agents.rllib.arrays import to_arrays

# Near the optimum gradients are small, and torch's default of 1e-8 would blow their noise up to full steps.
ADAM_EPSILON = 1e-5


class _TextLearner:
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        super().configure_optimizers_for_module(module_id, config)  # type: ignore[misc]
        for _, optimizer in self.get_optimizers_for_module(module_id):  # type: ignore[attr-defined]
            for group in optimizer.param_groups:
                group["eps"] = ADAM_EPSILON

    def _get_optimizer_state(self) -> dict[str, Any]:
        # RLlib's hook for another framework; its own for torch cannot hold bfloat16.
        return {
            name: {"module_id": module_id, "state": to_arrays(self.get_optimizer(module_id, name).state_dict())}  # type: ignore[attr-defined]
            for name, module_id in self._optimizer_name_to_module.items()  # type: ignore[attr-defined]
        }


class TextPPOLearner(_TextLearner, PPOTorchLearner):
    """Stock PPO."""


class TextAPPOLearner(_TextLearner, APPOTorchLearner):
    """Stock APPO."""


class TextIMPALALearner(_TextLearner, IMPALATorchLearner):
    """Stock IMPALA."""
