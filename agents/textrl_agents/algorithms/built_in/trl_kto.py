"""Kahneman-Tversky optimisation by TRL: each response is desirable or not, by itself and not in a pair.

Ethayarajh et al. 2024 (https://arxiv.org/abs/2402.01306). Here the response to a prompt that has the highest reward is
desirable, and the one that has the lowest is not.
"""

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm

ALGORITHM = TRLAlgorithm(
    name="trl_kto",
    description="TRL's KTO on the best and the worst of the reference's samples",
    trainer_class="trl:KTOTrainer",
    config_class="trl:KTOConfig",
    rows="textrl_agents.trl.rows:kto_rows",
    has_reference=True,
    defaults={"per_device_train_batch_size": 64, "num_train_epochs": 1},
    settings={"n": 4, "beta": 0.05, "num_train_epochs": 2},
    task_settings={"exact": {"beta": 1.0, "learning_rate": 1e-3, "num_train_epochs": 1}},
)
