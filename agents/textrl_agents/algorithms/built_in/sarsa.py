"""Soft SARSA on a table of states, for tasks that can be enumerated.

Haarnoja et al. 2017 (https://arxiv.org/abs/1702.08165); `textrl_agents.sb3.own.tabular` says what it converges to.
"""

from textrl_agents.algorithms.libraries.sb3 import SB3Algorithm

ALGORITHM = SB3Algorithm(
    name="sarsa",
    description="tabular soft SARSA",
    tasks=("exact",),
    algorithm_class="textrl_agents.sb3.own.tabular:SARSA",
    kind="table",
    settings={"n_envs": 64},
)
