"""SB3's `VecEnv` over the native vector environment: the same rows, the calling convention of SB3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from textrl_env import ENV_ID, TextGenVectorEnv, TokenAction
from textrl_env.errors import ConfigError
from textrl_env.mdp import Episode


class TextVecEnv(VecEnv):
    """`num_envs` rows of text generation for SB3.

    env: a registered id, or a TextGenVectorEnv in SAME_STEP mode (SB3 resets within the step).
    env_kwargs: the environment's arguments. `kl_mode` is "deferred" unless given: the KL is charged to whole episodes
        by EpisodeRolloutBuffer, in one forward each.
    log_probs: where the step's log-probabilities come from in the `"log_ratio"` and `"auto"` modes, since SB3's loop
        passes on the action alone. `make_agent` connects the policy.
    """

    def __init__(self, env: str | TextGenVectorEnv = ENV_ID, num_envs: int = 1, **env_kwargs: Any):
        if isinstance(env, str):
            arguments = {"kl_mode": "deferred", **env_kwargs, "autoreset_mode": AutoresetMode.SAME_STEP}
            built: Any = gymnasium.make_vec(env, num_envs=num_envs, **arguments)
        elif env_kwargs:
            raise ConfigError(f"env is built already; give it these arguments itself: {', '.join(env_kwargs)}")
        else:
            built = env
        inner = built.unwrapped
        if not isinstance(inner, TextGenVectorEnv):
            raise ConfigError(f"TextVecEnv runs over a TextGenVectorEnv, got {type(inner).__name__}")
        if inner.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ConfigError("SB3 resets within the step: build the environment with autoreset_mode='SAME_STEP'")
        self.env: TextGenVectorEnv = inner
        self.log_probs: Callable[[], torch.Tensor] | None = None
        self.finished: list[tuple[int, Episode]] = []  # (row, episode), until `drain_finished` takes them
        self.resets = 0  # calls of `reset`, each of which drops the episodes in flight
        self.steps = 0  # since the last of them
        self._silent = inner.rules.kl_mode == "deferred"
        self._actions = np.zeros(inner.num_envs, dtype=np.int64)
        super().__init__(inner.num_envs, inner.single_observation_space, inner.single_action_space)

    def reset(self) -> np.ndarray:
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        # SB3 keeps one dictionary a row; the vector environment takes one list a key.
        keys = {key for row in self._options for key in row}
        options = {key: [row.get(key) for row in self._options] for key in keys} or None
        observations, _ = self.env.reset(seed=seeds, options=options)
        self._reset_seeds()
        self._reset_options()
        self.finished.clear()
        self.resets, self.steps = self.resets + 1, 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        actions: Any = self._actions
        if self.log_probs is not None:
            actions = TokenAction(actions, self.log_probs())
        observations, rewards, dones, _, vector_infos = self.env.step(actions)
        self.steps += 1
        transition = self.env.transition
        assert transition is not None
        infos: list[dict[str, Any]]
        if self._silent:
            infos = [{} for _ in range(self.num_envs)]
        else:
            columns = (transition.ref_log_probs.tolist(), transition.kl.tolist())
            infos = [{"ref_log_prob": ref, "kl": kl} for ref, kl in zip(*columns, strict=True)]
        for row, episode in transition.episodes:
            infos[row].update(
                episode.info(),
                terminal_observation=vector_infos["final_obs"][row],
                **{"TimeLimit.truncated": False},
            )
        self.finished += transition.episodes
        return observations, rewards.astype(np.float32), dones, infos

    def drain_finished(self) -> list[tuple[int, Episode]]:
        """Episodes that ended since the last call, in order."""
        drained, self.finished = self.finished, []
        return drained

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * len(self._rows(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self.env, method_name)(*args, **kwargs)] * len(self._rows(indices))

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        # Episode records are kept by the environment itself, so nothing needs wrapping.
        return [False] * len(self._rows(indices))

    def _rows(self, indices: Any) -> Sequence[int]:
        return list(self._get_indices(indices))
