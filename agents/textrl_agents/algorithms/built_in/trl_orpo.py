"""Odds ratio preference optimisation by TRL: fine-tuning on the better response, with a penalty on the worse one.

Hong et al. 2024 (https://arxiv.org/abs/2403.07691). It takes no reference.
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm

ALGORITHM = TRLAlgorithm(
    name="trl_orpo",
    description="TRL's ORPO on the same pairs",
    trainer_class="trl.experimental.orpo:ORPOTrainer",
    config_class="trl.experimental.orpo:ORPOConfig",
    rows="textrl_agents.trl.rows:orpo_rows",
    defaults={"per_device_train_batch_size": 32, "num_train_epochs": 1},
    settings={"n": 4, "beta": 1.0, "num_train_epochs": 3},
    task_settings={"exact": {"beta": 0.1, "learning_rate": 3e-4, "num_train_epochs": 1}},
)
