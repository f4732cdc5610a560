"""DAPO by TRL: GRPO whose loss is a mean over tokens, with more room above the clip range than below.

Yu et al. 2025 (https://arxiv.org/abs/2503.14476). TRL lacks its dynamic sampling and its penalty on long responses.
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = TRLAlgorithm(
    name="trl_dapo",
    description="TRL's GRPO with DAPO's loss and clip range",
    trainer_class="trl:GRPOTrainer",
    config_class="trl:GRPOConfig",
    defaults={"loss_type": "dapo", "epsilon_high": 0.28},
    settings={"num_iterations": 2},
    task_settings={"exact": {"learning_rate": FALLING}},
)
