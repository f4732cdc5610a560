"""DAPO by TRL: GRPO whose loss is a mean over tokens, with more room above the clip range than below.

Yu et al. 2025 (https://arxiv.org/abs/2503.14476). TRL lacks its dynamic sampling and its penalty on long responses.
"""

from dataclasses import replace

from textrl_agents.algorithms.built_in.trl_grpo import ALGORITHM as GRPO

# Tuned as TRL's GRPO.
ALGORITHM = replace(
    GRPO,
    name="trl_dapo",
    description="TRL's GRPO with DAPO's loss and clip range",
    defaults={"loss_type": "dapo", "epsilon_high": 0.28},
)
