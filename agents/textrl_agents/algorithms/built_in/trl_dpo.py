"""Direct preference optimisation by TRL, on pairs of the reference's samples that the reward has ranked.

Rafailov et al. 2023 (https://arxiv.org/abs/2305.18290).
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm

ALGORITHM = TRLAlgorithm(
    name="trl_dpo",
    description="TRL's DPO on pairs of the reference's samples",
    trainer_class="trl:DPOTrainer",
    config_class="trl:DPOConfig",
    rows="textrl_agents.trl.rows:dpo_rows",
    has_reference=True,
    defaults={"per_device_train_batch_size": 32, "num_train_epochs": 1},
    settings={"n": 4, "beta": 0.05, "num_train_epochs": 2},
    task_settings={"exact": {"beta": 0.5, "learning_rate": 3e-4, "num_train_epochs": 1}},
)
