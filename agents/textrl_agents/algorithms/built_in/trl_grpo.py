"""Group relative policy optimisation by TRL.

Shao et al. 2024 (https://arxiv.org/abs/2402.03300).
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = TRLAlgorithm(
    name="trl_grpo",
    description="TRL's GRPO",
    trainer_class="trl:GRPOTrainer",
    config_class="trl:GRPOConfig",
    defaults={"loss_type": "grpo", "scale_rewards": "group"},
    settings={"num_iterations": 2},
    task_settings={"exact": {"learning_rate": FALLING}},
)
