"""Rewards: what scores a finished response, or each token of it.

protocol.py       what a reward is, and the keywords it takes; Scores
function.py       a Python function with a time limit (time_limit.py), scoring responses or tokens
classifier.py     any Hugging Face sequence classifier (classifier_loading.py)
composite.py      a weighted sum of rewards
built_in/         one file a reward that has a name
registry.py       names for rewards
make.py           make_reward: from a name, function, path or list to a reward
scoring.py        how the environment calls a reward, and checks what comes back
conformance.py    check_reward: the same checks for a reward of your own
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textrl_env.rewards.built_in.length import LengthReward
from textrl_env.rewards.built_in.repetition import RepetitionReward
from textrl_env.rewards.composite import CompositeReward
from textrl_env.rewards.conformance import check_reward
from textrl_env.rewards.function import FunctionReward, TokenFunctionReward
from textrl_env.rewards.make import make_reward
from textrl_env.rewards.protocol import Reward, Scores, completion_text, reward_name
from textrl_env.rewards.registry import register_reward, registered_rewards
from textrl_env.rewards.scoring import score_episodes, score_newest_tokens

if TYPE_CHECKING:
    from textrl_env.rewards.classifier import ClassifierReward

__all__ = [
    "ClassifierReward",
    "CompositeReward",
    "FunctionReward",
    "LengthReward",
    "RepetitionReward",
    "Reward",
    "Scores",
    "TokenFunctionReward",
    "check_reward",
    "completion_text",
    "make_reward",
    "register_reward",
    "registered_rewards",
    "reward_name",
    "score_episodes",
    "score_newest_tokens",
]


def __getattr__(name: str) -> Any:
    if name == "ClassifierReward":  # imports torch and transformers: only when it is used
        from textrl_env.rewards.classifier import ClassifierReward

        return ClassifierReward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
