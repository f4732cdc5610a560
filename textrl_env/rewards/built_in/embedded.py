"""The embedded reward model: a classifier trained on pairs that the rule-based gold scorer ranked."""

from __future__ import annotations

from typing import Any

from textrl_env.rewards.protocol import Reward


def embedded(**kwargs: Any) -> Reward:
    """Make a ClassifierReward of the embedded model. kwargs: its arguments."""
    from textrl_env.models.storage.embedded import asset_folder
    from textrl_env.rewards.classifier import ClassifierReward  # imports torch: only when it is used

    return ClassifierReward(asset_folder("reward"), **kwargs)


REWARD = embedded
