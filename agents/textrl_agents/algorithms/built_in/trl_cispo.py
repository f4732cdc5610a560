"""CISPO by TRL: REINFORCE weighted by a clipped ratio, so that every token keeps its gradient.

MiniMax 2025 (https://arxiv.org/abs/2506.13585).
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = TRLAlgorithm(
    name="trl_cispo",
    description="TRL's GRPO with CISPO's clipped weights",
    trainer_class="trl:GRPOTrainer",
    config_class="trl:GRPOConfig",
    # The bound of Khatri et al. 2025 (https://arxiv.org/abs/2510.13786), as TRL's documentation has it.
    defaults={"loss_type": "cispo", "epsilon_high": 5.0},
    settings={"num_iterations": 2},
    task_settings={"exact": {"learning_rate": FALLING}},
)
