"""Dr. GRPO by TRL: GRPO without what favours long responses and prompts whose scores differ little.

Liu et al. 2025 (https://arxiv.org/abs/2503.20783): the loss is divided by a constant, and advantages are not scaled.
"""

from dataclasses import replace

from textrl_agents.algorithms.built_in.trl_grpo import ALGORITHM as GRPO

# Tuned as TRL's GRPO.
ALGORITHM = replace(
    GRPO,
    name="trl_dr_grpo",
    description="TRL's GRPO with Dr. GRPO's loss and advantages",
    defaults={"loss_type": "dr_grpo", "scale_rewards": "none"},
)
