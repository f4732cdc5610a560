"""REINFORCE: the gradient of a response's log-probability, weighted by its return less a baseline.

Williams 1992 (https://doi.org/10.1007/BF00992696). The baseline is the value head. A small class on top of SB3's PPO.
"""

from textrl_agents.algorithms.libraries.sb3 import LOSS, ON_POLICY, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING, FULL, HALF

ALGORITHM = SB3Algorithm(
    name="reinforce",
    description="REINFORCE with a baseline",
    algorithm_class="textrl_agents.sb3.own.policy_gradient:REINFORCE",
    kind="responses",
    defaults={**ON_POLICY, **LOSS, "vf_coef": 0.1},
    settings={"n_envs": 64, "n_steps": 16, "learning_rate": HALF},
    task_settings={
        "sentiment": {"learning_rate": FULL},
        "exact": {"n_envs": 128, "n_steps": 10, "vf_coef": 0.5, "learning_rate": FALLING},
    },
)
