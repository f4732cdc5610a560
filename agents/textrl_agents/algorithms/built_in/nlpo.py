"""Natural language policy optimisation: PPO within the top-p tokens of a policy that lags behind.

Ramamurthy et al. 2022 (https://arxiv.org/abs/2210.01241). A small class on top of SB3's PPO.
"""

from textrl_agents.algorithms.libraries.sb3 import CRITIC, LOSS, ON_POLICY, PPO, SB3Algorithm
from textrl_agents.training.learning_rate import FALLING, FULL, HALF

ALGORITHM = SB3Algorithm(
    name="nlpo",
    description="PPO within the top-p tokens of a lagged policy",
    algorithm_class="textrl_agents.sb3.own.nlpo:NLPO",
    kind="critic",
    policy_class="textrl_agents.sb3.own.nlpo:MaskedCausalLMPolicy",
    masks=True,
    defaults={**ON_POLICY, **LOSS, **CRITIC, **PPO},
    minibatches=4,
    settings={"n_envs": 32, "n_epochs": 2, "learning_rate": HALF},
    task_settings={
        "sentiment": {"learning_rate": FULL},
        "exact": {
            "n_envs": 128,
            "n_steps": 20,
            "batch_size": 640,
            "clip_range": 0.1,
            "vf_coef": 0.5,
            "learning_rate": FALLING,
            "policy_kwargs": {"mask_top_p": 0.98},
        },
    },
)
