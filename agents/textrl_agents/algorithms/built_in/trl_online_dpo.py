"""Online DPO by TRL: at every step two responses to each prompt, of which the reward prefers one.

Guo et al. 2024 (https://arxiv.org/abs/2402.04792). `beta`, the weight of the KL in DPO's objective, is the task's.
"""

from textrl_agents.algorithms.trl import TRLAlgorithm
from textrl_agents.algorithms.tuned_rates import FALLING

ALGORITHM = TRLAlgorithm(
    name="trl_online_dpo",
    description="TRL's DPO on pairs of its own fresh samples",
    trainer_class="trl.experimental.online_dpo:OnlineDPOTrainer",
    config_class="trl.experimental.online_dpo:OnlineDPOConfig",
    defaults={"per_device_train_batch_size": 32},
    task_settings={"exact": {"learning_rate": FALLING}},
)
