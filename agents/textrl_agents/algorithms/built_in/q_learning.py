"""Soft Q-learning on a table of states, for tasks that can be enumerated.

Haarnoja et al. 2017 (https://arxiv.org/abs/1702.08165); `textrl_agents.sb3.own.tabular` says what it converges to.
"""

from textrl_agents.algorithms.libraries.sb3 import SB3Algorithm

ALGORITHM = SB3Algorithm(
    name="q_learning",
    description="tabular soft Q-learning",
    tasks=("exact",),
    algorithm_class="textrl_agents.sb3.own.tabular:QLearning",
    kind="table",
    settings={"n_envs": 64},
)
