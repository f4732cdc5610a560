"""Group sequence policy optimisation by TRL: GRPO whose ratio, and what is clipped of it, is that of a whole response.

Zheng et al. 2025 (https://arxiv.org/abs/2507.18071).
"""

from dataclasses import replace

from textrl_agents.algorithms.built_in.trl_grpo import ALGORITHM as GRPO

# Tuned as TRL's GRPO.
ALGORITHM = replace(
    GRPO,
    name="trl_gspo",
    description="TRL's GRPO with GSPO's ratio of whole responses",
    defaults={"loss_type": "grpo", "importance_sampling_level": "sequence"},
)
