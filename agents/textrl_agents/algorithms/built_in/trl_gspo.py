"""Group sequence policy optimisation by TRL: GRPO whose ratio, and what is clipped of it, is that of a whole response.

Zheng et al. 2025 (https://arxiv.org/abs/2507.18071).
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = TRLAlgorithm(
    name="trl_gspo",
    description="TRL's GRPO with GSPO's ratio of whole responses",
    trainer_class="trl:GRPOTrainer",
    config_class="trl:GRPOConfig",
    defaults={"loss_type": "grpo", "importance_sampling_level": "sequence"},
    settings={"num_iterations": 2},
    task_settings={"exact": {"learning_rate": FALLING}},
)
