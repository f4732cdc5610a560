"""Group relative policy optimisation: PPO whose advantages compare a response with the others to its prompt.

Shao et al. 2024 (https://arxiv.org/abs/2402.03300). A small class on top of SB3's PPO.
"""

from textrl_agents.algorithms.libraries.sb3 import COMPARED, LOSS, ON_POLICY, PPO, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING, FULL, HALF

# On the tasks whose optimum is known.
EXACT = {
    "n_envs": 128,
    "n_steps": 20,
    "batch_size": 640,
    "clip_range": 0.1,
    "group_size": 8,
    "scale": True,
    "learning_rate": FALLING,
}

ALGORITHM = SB3Algorithm(
    name="grpo",
    description="group relative policy optimisation",
    algorithm_class="textrl_agents.sb3.own.policy_gradient:GRPO",
    kind="responses",
    defaults={**ON_POLICY, **LOSS, **COMPARED, **PPO},
    minibatches=4,
    group_size=8,
    settings={
        "n_envs": 64,
        "n_steps": 32,
        "n_epochs": 2,
        "batch_size": 1024,
        "group_size": 4,
        "scale": False,
        "learning_rate": HALF,
    },
    task_settings={
        "sentiment": {"learning_rate": FULL},
        "exact": EXACT,
        "exact_turns": EXACT,
    },
)
