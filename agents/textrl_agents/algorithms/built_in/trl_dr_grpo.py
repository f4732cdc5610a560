"""Dr. GRPO by TRL: GRPO without what favours long responses and prompts whose scores differ little.

Liu et al. 2025 (https://arxiv.org/abs/2503.20783): the loss is divided by a constant, and advantages are not scaled.
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = TRLAlgorithm(
    name="trl_dr_grpo",
    description="TRL's GRPO with Dr. GRPO's loss and advantages",
    trainer_class="trl:GRPOTrainer",
    config_class="trl:GRPOConfig",
    defaults={"loss_type": "dr_grpo", "scale_rewards": "none"},
    settings={"num_iterations": 2},
    task_settings={"exact": {"learning_rate": FALLING}},
)
