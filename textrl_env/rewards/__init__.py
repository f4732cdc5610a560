"""Rewards: what scores a finished response, or each token of it.

protocol.py       what a reward is, and the keywords it takes; Scores
function.py       a Python function with a time limit (time_limit.py), scoring responses or tokens
classifier.py     any Hugging Face sequence classifier (classifier_loading.py)
encoding.py       prompt and response as the ids that a model reads
linear/           a linear model on hashed n-grams or hidden states
remote/           a server that scores by HTTP
combined/         rewards of rewards: weighted sum, ensemble, normalisation
built_in/         one file a reward that has a name
registry.py       names for rewards
reward_folder.py  reward.json, by which a saved reward is known
make.py           make_reward: from a name, function, path, address or list to a reward
scoring.py        how the environment calls a reward, and checks what comes back
conformance.py    check_reward: the same checks for a reward of your own
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from textrl_env.rewards.built_in.length import LengthReward
from textrl_env.rewards.built_in.repetition import RepetitionReward
from textrl_env.rewards.combined.composite import CompositeReward
from textrl_env.rewards.combined.ensemble import EnsembleReward
from textrl_env.rewards.combined.normalized import NormalizedReward
from textrl_env.rewards.conformance import check_reward
from textrl_env.rewards.function import FunctionReward, TokenFunctionReward
from textrl_env.rewards.make import make_reward
from textrl_env.rewards.protocol import Reward, Scores, reward_name
from textrl_env.rewards.registry import register_reward, registered_rewards
from textrl_env.rewards.reward_folder import save_normalization, write_reward_file
from textrl_env.rewards.scoring import score_episodes, score_newest_tokens
from textrl_env.text.chat_text import completion_text

if TYPE_CHECKING:
    from textrl_env.rewards.classifier import ClassifierReward
    from textrl_env.rewards.linear.hashed_ngrams import HashedNgrams
    from textrl_env.rewards.linear.hidden_states import HiddenStates
    from textrl_env.rewards.linear.linear_reward import LinearReward
    from textrl_env.rewards.remote.remote_reward import RemoteReward

__all__ = [
    "ClassifierReward",
    "CompositeReward",
    "EnsembleReward",
    "FunctionReward",
    "HashedNgrams",
    "HiddenStates",
    "LengthReward",
    "LinearReward",
    "NormalizedReward",
    "RemoteReward",
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
    "save_normalization",
    "score_episodes",
    "score_newest_tokens",
    "write_reward_file",
]
# Their modules import torch, transformers, safetensors or urllib3: only when they are used.
_LAZY = {
    "ClassifierReward": "classifier",
    "HashedNgrams": "linear.hashed_ngrams",
    "HiddenStates": "linear.hidden_states",
    "LinearReward": "linear.linear_reward",
    "RemoteReward": "remote.remote_reward",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
