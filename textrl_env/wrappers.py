"""Observations in other forms: the Hugging Face dict that models take, and text that people read."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from textrl_env.env import TextGenEnv
from textrl_env.tokenization import decode_response
from textrl_env.vector_env import TextGenVectorEnv


class HFObservation(gymnasium.ObservationWrapper[dict[str, np.ndarray], Any, np.ndarray]):
    """`{"input_ids", "attention_mask"}`, int64 [max_length] each, right-padded: `model(**batch)` after adding a row.

    Padded ids are 0 and masked out, since -1 is no id that an embedding has.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, Any]):
        super().__init__(env)
        self.observation_space = _hf_space(env.observation_space)

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return _hf_dict(observation)


class VectorHFObservation(gymnasium.vector.VectorObservationWrapper):
    """`HFObservation` for the vector environment: arrays [num_envs, max_length]."""

    def __init__(self, env: TextGenVectorEnv):
        super().__init__(env)
        self.single_observation_space = _hf_space(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: Any) -> Any:
        return _hf_dict(observations)


class UnicodeText(gymnasium.spaces.Text):
    """Text of any characters; Gymnasium's own `Text` must list every one it admits."""

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length


class TextObservation(gymnasium.ObservationWrapper[str, Any, np.ndarray]):
    """The prompt and the response so far as text, control tokens left out."""

    # No token of a known vocabulary spells more characters; it only bounds the space.
    CHARACTERS_PER_TOKEN = 256

    def __init__(self, env: gymnasium.Env[np.ndarray, Any]):
        super().__init__(env)
        inner = env.unwrapped
        if not isinstance(inner, TextGenEnv):
            raise TypeError(f"TextObservation wraps a TextGenEnv, got {type(inner).__name__}")
        self._tokenizer = inner.tokenizer
        longest = inner.rules.max_length * self.CHARACTERS_PER_TOKEN
        self.observation_space = UnicodeText(max_length=longest, min_length=0)

    def observation(self, observation: np.ndarray) -> str:
        return decode_response(self._tokenizer, observation[observation >= 0], after_text=False)


def _hf_dict(observation: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": np.maximum(observation, 0), "attention_mask": (observation >= 0).astype(np.int64)}


def _hf_space(space: gymnasium.Space[Any]) -> gymnasium.spaces.Dict:
    assert isinstance(space, gymnasium.spaces.Box)
    highest = int(space.high.flat[0])
    return gymnasium.spaces.Dict(
        input_ids=gymnasium.spaces.Box(0, highest, space.shape, np.int64),
        attention_mask=gymnasium.spaces.Box(0, 1, space.shape, np.int64),
    )
