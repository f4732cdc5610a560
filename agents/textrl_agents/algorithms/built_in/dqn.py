"""Deep Q-learning: a language model as a Q-function, fitted to what a replay buffer holds.

Mnih et al. 2015 (https://doi.org/10.1038/nature14236). The class is SB3's; `textrl_agents.sb3.q_policy` is the policy.
"""

from textrl_agents.algorithms.libraries.sb3 import VALUE, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING

ALGORITHM = SB3Algorithm(
    name="dqn",
    description="stock SB3 DQN",
    algorithm_class="stable_baselines3:DQN",
    kind="value",
    greedy=True,
    defaults=VALUE,
    settings={"n_envs": 64},
    task_settings={
        # Many updates: with one on every 512 tokens, as elsewhere, the score has not come back to the first token.
        "exact": {
            "train_freq": 2,
            "target_update_interval": 1024,
            "policy_kwargs": {"q_scale": 0.5},
            "learning_rate": FALLING,
        },
    },
)
