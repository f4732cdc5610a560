"""Soft Q-learning: DQN whose target is the soft value. Its policy is sampled, and solves the KL-regularised problem.

Haarnoja et al. 2017 (https://arxiv.org/abs/1702.08165). The class is SB3's DQN; `textrl_agents.sb3.q_policy` has the
soft backup.
"""

from textrl_agents.algorithms.libraries.sb3 import VALUE, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = SB3Algorithm(
    name="soft_dqn",
    description="stock SB3 DQN with a soft backup, sampled",
    algorithm_class="stable_baselines3:DQN",
    kind="value",
    policy_kwargs={"soft": True},
    # A soft policy explores by itself.
    defaults={**VALUE, "exploration_initial_eps": 0.0, "exploration_final_eps": 0.0},
    settings={"n_envs": 64},
    task_settings={"exact": {"train_freq": 2, "target_update_interval": 1024, "learning_rate": FALLING}},
)
