"""Quantile regression DQN: Q-learning of the returns' distribution.

Dabney et al. 2018 (https://arxiv.org/abs/1710.10044). The class is sb3-contrib's.
"""

from textrl_agents.algorithms.libraries.sb3 import SB3_CONTRIB, VALUE, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = SB3Algorithm(
    name="qrdqn",
    description="stock sb3-contrib QR-DQN",
    requires=SB3_CONTRIB,
    algorithm_class="sb3_contrib:QRDQN",
    kind="value",
    greedy=True,
    policy_kwargs={"n_quantiles": 16},
    defaults=VALUE,
    settings={"n_envs": 64},
    task_settings={
        "exact": {
            "train_freq": 2,
            "target_update_interval": 1024,
            "policy_kwargs": {"q_scale": 0.5},
            "learning_rate": FALLING,
        },
    },
)
