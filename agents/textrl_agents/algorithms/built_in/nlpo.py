"""Natural language policy optimisation: PPO within the top-p tokens of a policy that lags behind.

Ramamurthy et al. 2022 (https://arxiv.org/abs/2210.01241). A small class on top of SB3's PPO.
"""

from dataclasses import replace

from textrl_agents.algorithms.built_in.ppo import ALGORITHM as PPO

# Tuned as PPO, with a wide mask on `exact`.
ALGORITHM = replace(
    PPO,
    name="nlpo",
    description="PPO within the top-p tokens of a lagged policy",
    algorithm_class="textrl_agents.sb3.own.nlpo:NLPO",
    policy_class="textrl_agents.sb3.own.nlpo:MaskedCausalLMPolicy",
    masks=True,
    task_settings={
        **PPO.task_settings,
        "exact": {**PPO.task_settings["exact"], "policy_kwargs": {"mask_top_p": 0.98}},
    },
)
