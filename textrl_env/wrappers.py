"""Observations in other forms: the Hugging Face dict that models take, and text that people read."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector.utils import batch_space

from textrl_env.env import TextGenEnv
from textrl_env.errors import ConfigError
from textrl_env.text.tokenization import decode_response


class HFObservation(gymnasium.ObservationWrapper[dict[str, np.ndarray], Any, np.ndarray], RecordConstructorArgs):
    """`{"input_ids", "attention_mask"}`, int64 [max_length] each, right-padded: `model(**batch)` after adding a row.

    Padded ids are 0 and masked out, since -1 is no id that an embedding has. Raises ConfigError around anything but
    an environment whose observations are ids.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, Any]):
        _check_single(type(self), env, instead="use VectorHFObservation")
        space = _hf_space(type(self), env, env.observation_space)
        RecordConstructorArgs.__init__(self)  # so that env.spec can make the wrapped environment again
        gymnasium.ObservationWrapper.__init__(self, env)
        self.observation_space = space

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Turn ids padded with -1 into the dict."""
        return _hf_dict(observation)


class VectorHFObservation(gymnasium.vector.VectorWrapper):
    """`HFObservation` for a vector environment: arrays [num_envs, max_length]; rows of `final_obs` are dicts too."""

    # Not Gymnasium's VectorObservationWrapper, which leaves `final_obs` alone and therefore refuses SAME_STEP.

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any]):
        if not isinstance(env, gymnasium.vector.VectorEnv):
            raise ConfigError(f"VectorHFObservation wraps a vector environment, got {_named(env)}: use HFObservation")
        space = _hf_space(type(self), env, env.single_observation_space)
        super().__init__(env)
        self.single_observation_space = space
        self.observation_space = batch_space(space, env.num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the rows as the wrapped environment does."""
        ids, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # rows may have own seeds
        return _hf_dict(ids), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the rows as the wrapped environment does."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            last = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(infos["_final_obs"]):
                last[row] = _hf_dict(infos["final_obs"][row])
            infos = {**infos, "final_obs": last}
        return _hf_dict(observations), rewards, terminated, truncated, infos


class UnicodeText(gymnasium.spaces.Text):
    """Text of any characters; Gymnasium's own `Text` must list every one it admits."""

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text of an admitted length."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length


class TextObservation(gymnasium.ObservationWrapper[str, Any, np.ndarray], RecordConstructorArgs):
    """The prompt and the response so far as text, control tokens left out.

    Raises ConfigError around anything but a TextGenEnv whose observations are still ids.
    """

    # No token of a known vocabulary spells more characters; it only bounds the space.
    CHARACTERS_PER_TOKEN = 256

    def __init__(self, env: gymnasium.Env[np.ndarray, Any]):
        _check_single(type(self), env, instead="wrap the single environments, or decode its rows of ids yourself")
        inner = env.unwrapped
        if not isinstance(inner, TextGenEnv):
            raise ConfigError(
                f"TextObservation wraps a TextGenEnv, whose tokenizer it reads, got {_named(env)}: "
                f"put it around gymnasium.make('TextRLHF-v0')"
            )
        _check_ids(type(self), env, env.observation_space)
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        self._tokenizer = inner.tokenizer
        longest = inner.rules.max_length * self.CHARACTERS_PER_TOKEN
        self.observation_space = UnicodeText(max_length=longest, min_length=0)

    def observation(self, observation: np.ndarray) -> str:
        """Decode ids padded with -1."""
        return decode_response(self._tokenizer, observation[observation >= 0], after_text=False)


def _hf_dict(observation: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": np.maximum(observation, 0), "attention_mask": (observation >= 0).astype(np.int64)}


def _hf_space(wrapper: type, env: Any, space: gymnasium.Space[Any]) -> gymnasium.spaces.Dict:
    ids = _check_ids(wrapper, env, space)
    return gymnasium.spaces.Dict(
        input_ids=gymnasium.spaces.Box(0, int(ids.high.max()), ids.shape, np.int64),
        attention_mask=gymnasium.spaces.Box(0, 1, ids.shape, np.int64),
    )


def _check_single(wrapper: type, env: Any, *, instead: str) -> None:
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise ConfigError(
            f"{wrapper.__name__} wraps a single environment, got the vector environment {_named(env)}: {instead}"
        )
    if not isinstance(env, gymnasium.Env):
        raise ConfigError(f"{wrapper.__name__} wraps a Gymnasium environment, got {_named(env)}: {env!r:.80}")


def _check_ids(wrapper: type, env: Any, space: gymnasium.Space[Any]) -> gymnasium.spaces.Box:
    box = space if isinstance(space, gymnasium.spaces.Box) and space.dtype == np.int64 else None
    if box is None or len(box.shape) != 1 or (box.low != -1).any():
        raise ConfigError(
            f"{wrapper.__name__} reads ids padded with -1, Box(-1, V-1, (max_length,), int64); the observations of "
            f"{_named(env)} are {space}: put it directly around TextRLHF-v0, inside any other observation wrapper"
        )
    return box


def _named(env: Any) -> str:
    return type(getattr(env, "unwrapped", env)).__name__
