"""REINFORCE leave-one-out by TRL: a response's baseline is the mean reward of the others to its prompt.

Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740).
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = TRLAlgorithm(
    name="trl_rloo",
    description="TRL's RLOO",
    trainer_class="trl:RLOOTrainer",
    config_class="trl:RLOOConfig",
    settings={"num_iterations": 2},
    task_settings={"exact": {"learning_rate": FALLING}},
)
