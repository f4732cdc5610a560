"""Quantile regression DQN: Q-learning of the returns' distribution.

Dabney et al. 2018 (https://arxiv.org/abs/1710.10044). The class is sb3-contrib's.
"""

from dataclasses import replace

from textrl_agents.algorithms.built_in.dqn import ALGORITHM as DQN
from textrl_agents.algorithms.libraries.sb3 import SB3_CONTRIB

# Tuned as DQN.
ALGORITHM = replace(
    DQN,
    name="qrdqn",
    description="stock sb3-contrib QR-DQN",
    requires=SB3_CONTRIB,
    algorithm_class="sb3_contrib:QRDQN",
    policy_kwargs={"n_quantiles": 16},
)
