"""Proximal policy optimisation: several small epochs on each rollout, with the ratio to its policy clipped.

Schulman et al. 2017 (https://arxiv.org/abs/1707.06347); of language models Ziegler et al. 2019
(https://arxiv.org/abs/1909.08593). The class is SB3's.
"""

from textrl_agents.algorithms.libraries.sb3 import CRITIC, LOSS, ON_POLICY, PPO, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING, FULL, HALF

# On the tasks whose optimum is known.
EXACT = {
    "n_envs": 128,
    "n_steps": 20,
    "batch_size": 640,
    "clip_range": 0.1,
    "vf_coef": 0.5,
    "learning_rate": FALLING,
}

ALGORITHM = SB3Algorithm(
    name="ppo",
    description="stock SB3 PPO",
    algorithm_class="stable_baselines3:PPO",
    kind="critic",
    defaults={**ON_POLICY, **LOSS, **CRITIC, **PPO},
    minibatches=4,
    # Few rows and long rollouts: what a rollout cuts off is bootstrapped from a critic that knows little yet.
    settings={"n_envs": 32, "n_epochs": 2, "learning_rate": HALF},
    task_settings={
        "sentiment": {"learning_rate": FULL},
        "exact": EXACT,
        "exact_turns": EXACT,
    },
)
