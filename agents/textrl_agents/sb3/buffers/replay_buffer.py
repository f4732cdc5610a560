"""A replay buffer of episodes: each token stored once, each sampled sequence run once in an update.

SB3's buffer keeps two observations for every transition, and an update runs the model on each of them. This one keeps
the ids of whole episodes and samples whole episodes; `DQN.train()` sees flat tensors of transitions as ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from textrl_agents.sb3.buffers.sampled_tokens import SampledTokens
from textrl_agents.training.divergence import RewardRange, check_rewards, reward_range
from textrl_env.errors import ConfigError
from textrl_env.models import PackedEpisodes


@dataclass
class _Stored:
    """An episode, over or going on."""

    ids: list[int]
    first_action: int
    rewards: list[float] = field(default_factory=list)
    done: bool = False  # whether it has terminated: no value follows its last token

    def __len__(self) -> int:
        return len(self.rewards)


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

    buffer_size counts transitions: the oldest episodes that are over go when there are more. `sample(n)` cuts n
    transitions out of an endless row of episodes that are drawn uniformly, beginning at a transition that is drawn
    uniformly. Each place of the batch then holds every transition with the same probability, whatever the episodes'
    lengths. (A cut that begins where an episode begins has too few of long ones: the last one, which loses its end, is
    more often long.)
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
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
        self._open: list[_Stored | None] = [None] * self.n_envs
        self._transitions = 0  # of the episodes that are over

    def size(self) -> int:
        """Transitions stored."""
        return self._transitions + sum(len(episode) for episode in self._open if episode is not None)

    def reward_range(self) -> RewardRange | None:
        """The least and the greatest reward stored; None of none."""
        rewards = [reward for episode in self._stored() for reward in episode.rewards]
        return reward_range(np.array(rewards)) if rewards else None

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
        lengths = (obs >= 0).sum(axis=1)
        actions = np.asarray(action).reshape(self.n_envs)
        for row, length in enumerate(lengths.tolist()):
            episode = self._open[row]
            # Another episode may have begun in this row: the environment was reset in between.
            if episode is None or len(episode.ids) != length or episode.ids[-1] != obs[row, length - 1]:
                episode = self._open[row] = _Stored(obs[row, :length].tolist(), length)
            episode.ids.append(int(actions[row]))
            episode.rewards.append(float(reward[row]))
            if done[row]:
                cut_off = infos[row].get("TimeLimit.truncated", False)
                episode.done = not (cut_off and self.handle_timeout_termination)
                self._over.append(episode)
                self._transitions += len(episode)
                self._open[row] = None
        while self._transitions > self.buffer_size:
            self._transitions -= len(self._over.popleft())
        self.pos += 1

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """`batch_size` transitions; `observations` and `next_observations` are PackedEpisodes of the same sequences."""
        stored = self._stored()
        if not stored:
            raise ConfigError("the replay buffer is empty: take a step before sampling")
        first, start = self._transition(stored)
        chosen, total = [first], len(first) - start
        while total < batch_size:
            chosen.append(stored[np.random.randint(len(stored))])
            total += len(chosen[-1])
        counts = np.array([len(episode) for episode in chosen])
        rows = np.repeat(np.arange(len(chosen)), counts)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # step within its episode
        window = slice(start, start + batch_size)
        return self._samples(chosen, rows[window], place[window])

    def _stored(self) -> list[_Stored]:
        return [*self._over, *(episode for episode in self._open if episode is not None)]

    def _transition(self, stored: list[_Stored]) -> tuple[_Stored, int]:
        """An episode and a step of it, uniform over all transitions: a step beyond an episode's end is drawn again."""
        longest = self.obs_shape[0]
        while True:
            episode, step = stored[np.random.randint(len(stored))], np.random.randint(longest)
            if step < len(episode):
                return episode, step

    def _samples(self, chosen: list[_Stored], rows: np.ndarray, place: np.ndarray) -> ReplayBufferSamples:
        width = max(len(episode.ids) for episode in chosen)
        ids = np.zeros((len(chosen), width), dtype=np.int64)
        for row, episode in enumerate(chosen):
            ids[row, : len(episode.ids)] = episode.ids
        firsts = np.array([episode.first_action for episode in chosen])
        columns = firsts[rows] + place - 1  # of the state's last token; the action stands right after it
        rewards = np.array([chosen[row].rewards[step] for row, step in zip(rows, place, strict=True)])
        lengths = np.array([len(episode.ids) for episode in chosen])
        dones = np.array([episode.done for episode in chosen])[rows] & (columns + 2 == lengths[rows])
        actions = ids[rows, columns + 1]
        # After a last token comes no state; its value is multiplied by 0, so any will do.
        following = columns + ~dones
        input_ids, places = self.to_torch(ids), np.stack([rows, columns, following, actions])
        on_rows, on_columns, on_following, on_actions = self.to_torch(places)
        return ReplayBufferSamples(
            PackedEpisodes(input_ids, lengths, on_rows, on_columns, on_actions),  # type: ignore[arg-type]
            on_actions[:, None],
            PackedEpisodes(input_ids, lengths, on_rows, on_following, on_actions),  # type: ignore[arg-type]
            self.to_torch(dones.astype(np.float32)[:, None]),
            self.to_torch(rewards.astype(np.float32)[:, None]),
        )
