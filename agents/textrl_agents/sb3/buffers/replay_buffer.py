"""A replay buffer of episodes: each token stored once, each sampled sequence run once in an update.

SB3's buffer keeps two observations for every transition, and an update runs the model on each of them. This one keeps
the ids of whole episodes and samples whole episodes; `DQN.train()` sees flat tensors of transitions as ever.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from textrl_agents.sb3.buffers.sampled_tokens import SampledTokens
from textrl_agents.training.divergence import RewardRange, check_rewards, reward_range
from textrl_env.errors import ConfigError
from textrl_env.models import PackedEpisodes
from textrl_env.trajectory import Trajectory


class _Stored(NamedTuple):
    """An episode, over or going on."""

    trajectory: Trajectory
    done: bool  # whether it has terminated: no value follows its last token


def check_charge(action: np.ndarray) -> None:
    """Raise ConfigError where the environment that took `action` does not charge what the policy learns from."""
    if not isinstance(action, SampledTokens) or action.env is None:  # unknown of uniformly random tokens
        return
    env = action.env
    if env.env.rules.kl_mode != "cross_entropy":
        raise ConfigError(
            f"Q-learning learns from the reward of each step: it needs an environment with kl_mode='cross_entropy', "
            f"not {env.env.rules.kl_mode!r}"
        )
    temperature = getattr(action.policy, "temperature", None)
    if temperature is not None and temperature != env.env.kl_penalty.coef:
        raise ConfigError(
            f"this policy was made for kl_coef={temperature}, which is its temperature, and the environment charges "
            f"{env.env.kl_penalty.coef}: give it an environment with its own kl_coef"
        )


class EpisodeReplayBuffer(ReplayBuffer):
    """`ReplayBuffer` for token sequences.

    buffer_size counts transitions: where there are more, the oldest episodes that are over are dropped. `sample(n)`
    draws a transition uniformly, then whole episodes uniformly, and takes n transitions in a row from the first one on.
    Each place of the batch then holds every transition with the same probability, whatever the episodes' lengths. (A
    batch that began where an episode begins would have too few of long ones: its last one, which loses its end, is more
    often long.)
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ):
        if optimize_memory_usage:
            raise ConfigError("optimize_memory_usage is for stored observations; this buffer stores each token once")
        # Not ReplayBuffer's, which would set aside two observations for every transition.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.handle_timeout_termination = handle_timeout_termination
        self.optimize_memory_usage = False
        self.reset()

    def reset(self) -> None:
        super(ReplayBuffer, self).reset()
        self._over: deque[_Stored] = deque()
        self._transitions = 0  # of the episodes that are over
        # The episodes that go on, one a row, [N, L].
        shape = (self.n_envs, *self.obs_shape)
        self._ids = np.full(shape, -1, dtype=np.int64)
        self._is_action = np.zeros(shape, dtype=bool)
        self._rewards = np.zeros(shape)  # at the places of the actions
        self._stored: list[_Stored] | None = None  # all episodes; None where there are new transitions

    def size(self) -> int:
        """Transitions stored."""
        return self._transitions + int(self._is_action.sum())

    def reward_range(self) -> RewardRange | None:
        """The least and the greatest reward stored; None of none."""
        stored = self._episodes()
        return reward_range(np.concatenate([episode.trajectory.rewards for episode in stored])) if stored else None

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        check_charge(action)
        check_rewards(reward)
        # Another episode may have begun in a row: the environment was reset in between.
        self._is_action[(obs != self._ids).any(axis=1)] = False
        lengths = (obs >= 0).sum(axis=1)
        self._ids[...] = obs
        place = np.arange(self.n_envs), lengths
        self._ids[place], self._is_action[place] = np.asarray(action).reshape(self.n_envs), True
        self._rewards[place] = reward
        ended = np.flatnonzero(done).tolist()
        cut_off = self.handle_timeout_termination
        terminated = {row for row in ended if not (cut_off and infos[row].get("TimeLimit.truncated", False))}
        # The environment may have written tokens after the action. What follows a last token is no state.
        for row in np.flatnonzero((next_obs >= 0).sum(axis=1) > lengths + 1).tolist():
            if row not in terminated:
                self._ids[row] = next_obs[row]
        for row in ended:
            episode = _Stored(self._trajectory(row), row in terminated)
            self._over.append(episode)
            self._transitions += len(episode.trajectory)
            self._ids[row], self._is_action[row] = -1, False
        while self._transitions > self.buffer_size:
            self._transitions -= len(self._over.popleft().trajectory)
        self._stored = None
        self.pos += 1

    def _trajectory(self, row: int) -> Trajectory:
        """The episode of a row as far as it has come."""
        length = int((self._ids[row] >= 0).sum())
        is_action = self._is_action[row, :length].copy()
        return Trajectory(self._ids[row, :length].copy(), is_action, rewards=self._rewards[row, :length][is_action])

    def _episodes(self) -> list[_Stored]:
        if self._stored is None:
            going_on = np.flatnonzero(self._is_action.any(axis=1)).tolist()
            self._stored = [*self._over, *(_Stored(self._trajectory(row), done=False) for row in going_on)]
        return self._stored

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """`batch_size` transitions; `observations` and `next_observations` are PackedEpisodes of the same sequences."""
        stored = self._episodes()
        if not stored:
            raise ConfigError("the replay buffer is empty: take a step before sampling")
        first, start = self._transition(stored)
        chosen, total = [first], len(first.trajectory) - start
        while total < batch_size:
            chosen.append(stored[np.random.randint(len(stored))])
            total += len(chosen[-1].trajectory)
        return self._samples(chosen, start, batch_size)

    def _transition(self, stored: list[_Stored]) -> tuple[_Stored, int]:
        """An episode and a step of it, uniform over all transitions: a step beyond an episode's end is drawn again."""
        longest = self.obs_shape[0]
        while True:
            episode, step = stored[np.random.randint(len(stored))], np.random.randint(longest)
            if step < len(episode.trajectory):
                return episode, step

    def _samples(self, chosen: list[_Stored], start: int, count: int) -> ReplayBufferSamples:
        """`count` transitions of the chosen episodes in a row, from the first one's step `start` on."""
        trajectories = [episode.trajectory for episode in chosen]
        lengths = np.array([len(trajectory.ids) for trajectory in trajectories])
        ids = np.zeros((len(chosen), lengths.max()), dtype=np.int64)
        for row, trajectory in enumerate(trajectories):
            ids[row, : lengths[row]] = trajectory.ids
        places = [np.flatnonzero(trajectory.is_action) for trajectory in trajectories]
        # A state ends where the next action follows, and the last one with all ids. No state follows a last token: its
        # value is multiplied by 0, so any state will do.
        following = [np.append(place[1:], len(each.ids)) - 1 for place, each in zip(places, trajectories, strict=True)]
        window = slice(start, start + count)
        rows = np.repeat(np.arange(len(chosen)), [len(place) for place in places])[window]
        at, after = np.concatenate(places)[window], np.concatenate(following)[window]
        last = np.concatenate([np.arange(len(place)) == len(place) - 1 for place in places])[window]
        dones = last & np.array([episode.done for episode in chosen])[rows]
        after = np.where(dones, at - 1, after)
        rewards = np.concatenate([trajectory.rewards for trajectory in trajectories])[window]
        input_ids, indices = self.to_torch(ids), np.stack([rows, at - 1, after, ids[rows, at]])
        on_rows, on_columns, on_following, on_actions = self.to_torch(indices)
        return ReplayBufferSamples(
            PackedEpisodes(input_ids, lengths, on_rows, on_columns, on_actions),  # type: ignore[arg-type]
            on_actions[:, None],
            PackedEpisodes(input_ids, lengths, on_rows, on_following, on_actions),  # type: ignore[arg-type]
            self.to_torch(dones.astype(np.float32)[:, None]),
            self.to_torch(rewards.astype(np.float32)[:, None]),
        )
