"""Online DPO by TRL: at every step two responses to each prompt, of which the reward prefers one.

Guo et al. 2024 (https://arxiv.org/abs/2402.04792). `beta` holds it near the reference; its default is the task's
kl_coef. It needs more than that: DPO takes each preference for a guess, and the reward's are certain.
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm

ALGORITHM = TRLAlgorithm(
    name="trl_online_dpo",
    description="TRL's DPO on pairs of its own fresh samples",
    trainer_class="trl.experimental.online_dpo:OnlineDPOTrainer",
    config_class="trl.experimental.online_dpo:OnlineDPOConfig",
    defaults={"per_device_train_batch_size": 32},
    task_settings={"exact": {"beta": 2.0, "learning_rate": {"peak": 1e-3, "final": 0.0}}},
)
