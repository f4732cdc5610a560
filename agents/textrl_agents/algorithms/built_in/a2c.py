"""Advantage actor-critic: one step of gradient on each rollout.

Mnih et al. 2016 (https://arxiv.org/abs/1602.01783), in its synchronous form. The class is SB3's.
"""

from textrl_agents.algorithms.libraries.sb3 import CRITIC, LOSS, ON_POLICY, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING, FULL, HALF

ALGORITHM = SB3Algorithm(
    name="a2c",
    description="stock SB3 A2C",
    algorithm_class="stable_baselines3:A2C",
    kind="critic",
    defaults={**ON_POLICY, **LOSS, **CRITIC, "use_rms_prop": False, "normalize_advantage": True},
    settings={"n_envs": 16, "learning_rate": HALF},
    task_settings={
        "sentiment": {"learning_rate": FULL},
        "exact": {"n_envs": 128, "n_steps": 10, "vf_coef": 0.5, "learning_rate": FALLING},
    },
)
