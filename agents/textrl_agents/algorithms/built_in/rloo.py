"""REINFORCE leave-one-out: a response's baseline is the mean return of the others to its prompt.

Kool et al. 2019 (https://openreview.net/forum?id=r1lgTGL5DE); of language models Ahmadian et al. 2024
(https://arxiv.org/abs/2402.14740). A small class on top of SB3's PPO.
"""

from textrl_agents.algorithms.libraries.sb3 import COMPARED, LOSS, ON_POLICY, PPO, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING, FULL, HALF

# On the tasks whose optimum is known.
EXACT = {"n_envs": 128, "n_steps": 20, "batch_size": 640, "learning_rate": FALLING}

ALGORITHM = SB3Algorithm(
    name="rloo",
    description="REINFORCE leave-one-out",
    algorithm_class="textrl_agents.sb3.own.policy_gradient:RLOO",
    kind="responses",
    defaults={**ON_POLICY, **LOSS, **COMPARED, **PPO, "n_epochs": 1},
    minibatches=4,
    group_size=4,
    settings={"n_envs": 64, "n_steps": 16, "batch_size": 512, "learning_rate": HALF},
    task_settings={
        "sentiment": {"n_steps": 32, "n_epochs": 2, "learning_rate": FULL},
        "exact": EXACT,
        "exact_turns": EXACT,
    },
)
