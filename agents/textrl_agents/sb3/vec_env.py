"""SB3's `VecEnv` over the native vector environment: the same rows, the calling convention of SB3."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from textrl_env import ENV_ID, TextGenVectorEnv, TokenAction
from textrl_env.errors import ConfigError
from textrl_env.mdp import CutEpisode, Episode


class EndedRow(NamedTuple):
    """An episode that is over, and the `info` that SB3 got of its end."""

    row: int
    episode: Episode | None  # None where a time limit cut it off: it has no score
    kl_coef: float
    info: dict[str, Any]

    def charge(self, kl_sum: float) -> None:
        """Take the deferred KL off the returns that are logged. kl_sum: nats, over the whole episode."""
        cost = self.kl_coef * kl_sum
        self.info["episode"]["r"] -= cost
        if self.episode is not None:
            self.episode.kl_sum = self.info["kl_sum"] = kl_sum
            self.episode.episode_return -= cost
            self.info["episode_return"] = self.episode.episode_return


class TextVecEnv(VecEnv):
    """`num_envs` rows of text generation for SB3.

    To the environment's infos it adds, at an end, what SB3 reads: `episode` (`r`, `l`, `t` as its Monitor's),
    `terminal_observation` and `TimeLimit.truncated`, by which SB3 bootstraps where `max_episode_steps` cuts off.

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
        self.finished: list[EndedRow] = []  # until `drain_finished` takes them
        self.resets = 0  # calls of `reset`, each of which drops the episodes in flight
        self._silent = inner.rules.kl_mode == "deferred"
        self._actions = np.zeros(inner.num_envs, dtype=np.int64)
        self._started_at = time.time()
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
        self.resets += 1
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        actions: Any = self._actions
        if self.log_probs is not None:
            actions = TokenAction(actions, self.log_probs())
        observations, rewards, terminated, truncated, vector_infos = self.env.step(actions)
        transition = self.env.transition
        assert transition is not None
        infos: list[dict[str, Any]]
        if self._silent:
            infos = [{} for _ in range(self.num_envs)]
        else:
            columns = (transition.ref_log_probs.tolist(), transition.kl.tolist())
            infos = [{"ref_log_prob": ref, "kl": kl} for ref, kl in zip(*columns, strict=True)]
        ends: list[tuple[int, Episode | CutEpisode]] = [*transition.episodes, *transition.cut]
        for row, over in ends:
            episode = over if isinstance(over, Episode) else None
            seconds = round(time.time() - self._started_at, 6)
            infos[row].update(
                episode.info() if episode is not None else {},
                episode={"r": over.episode_return, "l": over.episode_length, "t": seconds},
                terminal_observation=vector_infos["final_obs"][row],
                **{"TimeLimit.truncated": episode is None},
            )
            self.finished.append(EndedRow(row, episode, over.kl_coef, infos[row]))
        return observations, rewards.astype(np.float32), terminated | truncated, infos

    def drain_finished(self) -> list[EndedRow]:
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
