"""A rollout buffer of episodes: each token stored once, each sequence run once in an update.

SB3's buffer keeps a full observation for every transition and an update runs the model on every prefix: O(T^2) memory
and work. This one keeps the ids that were generated and yields minibatches of whole sequences with the place of every
transition. `PPO.train()` sees flat tensors of transitions as ever, and cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from textrl_agents.sb3.buffers.sampled_tokens import SampledTokens
from textrl_agents.sb3.ledger import EpisodeLedger
from textrl_agents.training.divergence import RewardRange, check_log_probs, check_rewards, reward_range
from textrl_env.errors import ConfigError
from textrl_env.models import PackedEpisodes, pack
from textrl_env.trajectory import Trajectory

if TYPE_CHECKING:
    from textrl_agents.sb3.policy import CausalLMPolicy
    from textrl_agents.sb3.vec_env import TextVecEnv


class EpisodeRolloutBuffer(RolloutBuffer):
    """`RolloutBuffer` for token sequences.

    Arguments: SB3's. It follows the environment and the policy that the tokens it is given come from.

    `get(batch_size)` counts transitions: its minibatches hold whole sequences, dealt so that each has about
    `batch_size` transitions. Advantages and returns are SB3's own `compute_returns_and_advantage`.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        gae_lambda: float = 0.95,
        gamma: float = 1.0,
        n_envs: int = 1,
    ):
        self.ledger = EpisodeLedger(n_envs)
        self.policy: CausalLMPolicy | None = None  # that sampled the rollout
        self.episodes: list[Trajectory] = []  # that ended in this rollout
        self.response_entropies: list[float] = []  # summed -log pi of each
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def bind(self, env: TextVecEnv, policy: CausalLMPolicy) -> bool:
        """Follow `env` and `policy` through this rollout, after its first step or before it is resumed.

        Returns whether it goes on with the episodes of the last one.
        """
        self.policy = policy
        policy.gradient_guard.rewards = self.reward_range
        return self.ledger.start(env)

    def reward_range(self) -> RewardRange:
        """The least and the greatest reward of this rollout, with the KL charged."""
        return reward_range(self.rewards)

    def state_dict(self) -> dict[str, Any]:
        """What a later rollout depends on: sums over the episodes that go on."""
        return self.ledger.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; `bind` first."""
        self.ledger.load_state_dict(state)

    def reset(self) -> None:
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros(shape, dtype=np.int64)
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.returns = np.zeros(shape, dtype=np.float32)
        self.advantages = np.zeros(shape, dtype=np.float32)
        self.episode_starts = np.zeros(shape, dtype=np.float32)
        # Stay on the model's device while sampling: one transfer a rollout instead of two a step.
        self._values = torch.zeros(shape, device=self.device)
        self._log_probs = torch.zeros(shape, device=self.device)
        self._prefixes: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(self.n_envs)]
        self._packed: PackedEpisodes | None = None
        self._columns: tuple[np.ndarray, ...] = ()  # values, log-probs, advantages, returns [M], in packed order
        self.generator_ready = False
        BaseBuffer.reset(self)

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: torch.Tensor,
        log_prob: torch.Tensor,
    ) -> None:
        if not isinstance(action, SampledTokens) or action.env is None:
            raise ConfigError(
                f"{type(self).__name__} follows tokens that a CausalLMPolicy samples in a TextVecEnv; these come from "
                "another policy or environment. Build both by hand as in examples/sb3_by_hand.py, or use make_agent"
            )
        at = self.pos
        if at == 0:
            self.bind(action.env, action.policy)
        self.ledger.follow(action)
        for row in range(self.n_envs) if at == 0 else np.flatnonzero(episode_start):
            ids = obs[row]
            self._prefixes[row].append((at, ids[ids >= 0].copy()))
        self.actions[at] = action.reshape(self.n_envs)
        self.rewards[at] = reward
        self.episode_starts[at] = episode_start
        self._values[at] = value.detach().flatten()
        self._log_probs[at] = log_prob.detach().flatten()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Charge the deferred KL to the rewards, then SB3's GAE."""
        self._settle(dones)
        super().compute_returns_and_advantage(last_values, dones)
        columns = (self.values, self.log_probs, self.advantages, self.returns)
        self._columns = tuple(column[self._place] for column in columns)

    def _settle(self, dones: np.ndarray) -> list[tuple[int, bool]]:
        """Pack the rollout and charge the deferred KL; for each stretch of an episode its row and whether it ended."""
        sequences, first_actions, stretches, steps, rows = [], [], [], [], []
        for row, starts in enumerate(self._prefixes):
            ends = [start for start, _ in starts[1:]] + [self.buffer_size]
            for (start, prefix), end in zip(starts, ends, strict=True):
                sequences.append(np.concatenate([prefix, self.actions[start:end, row]]))
                first_actions.append(len(prefix))
                stretches.append((row, end < self.buffer_size or bool(dones[row])))
                steps.append(np.arange(start, end))
                rows.append(np.full(end - start, row))
        self._place = (np.concatenate(steps), np.concatenate(rows))
        self._pack(sequences, first_actions)
        log_probs = self._log_probs[tuple(torch.from_numpy(index).to(self._log_probs.device) for index in self._place)]
        self.log_probs = self._log_probs.cpu().numpy()
        check_log_probs(self.log_probs)
        assert self._packed is not None
        assert self.policy is not None
        policy = self.policy.actor_critic
        costs, self.episodes, self.response_entropies = self.ledger.settle(self._packed, log_probs, stretches, policy)
        if costs is not None:
            self.rewards[self._place] -= costs
        check_rewards(self.rewards)
        self.values = self._values.cpu().numpy()
        return stretches

    def _pack(self, sequences: list[np.ndarray], first_actions: list[int]) -> None:
        pairs = zip(sequences, first_actions, strict=True)
        self._trajectories = [Trajectory.of_response(ids[:first], ids[first:]) for ids, first in pairs]
        self._packed = pack(self._trajectories, self.device)
        self._sequences, self._first_actions = sequences, np.array(first_actions)

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches of whole sequences: `observations` is a PackedEpisodes, the rest flat, one entry a transition."""
        if self._packed is None:
            raise ConfigError("the rollout buffer is not full yet: collect a whole rollout before get()")
        sizes = np.array([len(ids) for ids in self._sequences]) - self._first_actions
        total = int(sizes.sum())
        count = 1 if batch_size is None else max(1, round(total / batch_size))
        order = np.random.permutation(len(sizes))
        # Cut where the running count passes the ideal boundary nearest, so that the minibatches are alike in size.
        middles = np.cumsum(sizes[order]) - sizes[order] / 2
        batch_of = np.minimum((middles * count / total).astype(np.int64), count - 1)
        offsets = np.cumsum(sizes) - sizes
        for batch in range(count):
            chosen = order[batch_of == batch]
            if not len(chosen):
                continue
            packed = self._packed
            if count > 1:
                packed = pack([self._trajectories[i] for i in chosen], self.device)
            else:
                chosen = np.arange(len(sizes))
            flat = np.concatenate([np.arange(offsets[i], offsets[i] + sizes[i]) for i in chosen])
            columns: list[Any] = [self.to_torch(column[flat]) for column in self._columns]
            yield RolloutBufferSamples(packed, packed.actions, *columns)  # type: ignore[arg-type]
