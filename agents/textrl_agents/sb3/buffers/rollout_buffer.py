"""A rollout buffer of episodes: each token stored once, each sequence run once in an update.

SB3's buffer keeps a full observation for every transition and an update runs the model on every prefix: O(T^2) memory
and work. This one keeps the ids that were generated and yields minibatches of whole sequences with the place of every
transition. `PPO.train()` sees flat tensors of transitions as ever, and cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from textrl_agents.sb3.buffers.sampled_tokens import EndedRow, SampledTokens
from textrl_agents.training.divergence import RewardRange, check_log_probs, check_rewards, reward_range
from textrl_agents.training.sampler_gap import sampler_gap
from textrl_env.accounts import KLAccounts, Stretch
from textrl_env.errors import ConfigError
from textrl_env.models import PackedEpisodes, pack
from textrl_env.trajectory import Trajectory

if TYPE_CHECKING:
    from textrl_agents.sb3.policy import CausalLMPolicy
    from textrl_agents.sb3.vec_env import TextVecEnv


class _End(NamedTuple):
    """Where a stretch of a row ends in a rollout."""

    steps: int  # of the rollout until there
    observation: np.ndarray  # int64 [L], before its last action
    record: EndedRow | None  # of the episode, where it is over


class EpisodeRolloutBuffer(RolloutBuffer):
    """`RolloutBuffer` for token sequences.

    Arguments: SB3's. It follows the environment and the policy that the tokens it is given come from.

    `get(batch_size)` counts transitions: its minibatches hold whole sequences, dealt so that each has about
    `batch_size` transitions. Advantages and returns are SB3's own `compute_returns_and_advantage`.

    Deferred scores, the deferred KL and values that come later (of a separate trunk, or with decoder="ahead") are
    computed when the rollout is full, the scores in one call of the reward and the others in one pass each.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        gae_lambda: float = 0.95,
        gamma: float = 1.0,
        n_envs: int = 1,
    ):
        self.env: TextVecEnv | None = None  # that the rollout was sampled in
        self.policy: CausalLMPolicy | None = None  # that sampled it
        self.accounts: KLAccounts | None = None  # of the episodes in `env`, by their rows
        self.episodes: list[Trajectory] = []  # that terminated in this rollout, whole
        self._broken_off = False  # whether the rollout before this one was
        self._settled_at = (0, 0)  # resets and steps of `env`, at the end of the last rollout
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def bind(self, env: TextVecEnv, policy: CausalLMPolicy) -> bool:
        """Follow `env` and `policy` through this rollout, after its first step or before it is resumed.

        Returns whether `env` goes on with the episodes of the last one. It does not after a reset.
        """
        resets, steps = self._settled_at
        goes_on = self.env is env and env.resets == resets
        # A rollout that was broken off took tokens with it, so episodes from before it cannot be put together. It also
        # left SB3 with an observation that is one step old, and the first action of this rollout is drawn from that.
        self._broken_off = goes_on and env.steps != steps + 1
        if not goes_on or self._broken_off:
            self.accounts = KLAccounts(env.env.kl_penalty, deferred=env.env.rules.kl_mode == "deferred")
        self.env, self.policy, self._settled_at = env, policy, (env.resets, steps if goes_on else 0)
        env.follow()
        policy.gradient_guard.rewards = self.reward_range
        policy.values_after_rollout = True
        self._look_ahead(self.buffer_size - 1)
        return goes_on

    def _look_ahead(self, steps: int) -> None:
        """Tell the policy what comes in the rest of this rollout; nothing once it is complete."""
        assert self.env is not None
        assert self.policy is not None
        self.policy.actor_critic.look_ahead(*(steps, self.env.env.upcoming_prompts) if steps else (None, None))

    def reward_range(self) -> RewardRange:
        """The least and the greatest reward of this rollout, with the KL charged."""
        return reward_range(self.rewards)

    def state_dict(self) -> dict[str, Any]:
        """What a later rollout depends on: the episodes that go on."""
        return {"accounts": None if self.accounts is None else self.accounts.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; `bind` first."""
        assert self.env is not None
        assert self.accounts is not None
        if state["accounts"] is not None:
            self.accounts.load_state_dict(state["accounts"])
        self._settled_at = (self.env.resets, self.env.steps)

    def reset(self) -> None:
        if self.env is not None:
            self.env.settle_scores()  # of a rollout that was broken off: its returns are logged
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros(shape, dtype=np.int64)
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.returns = np.zeros(shape, dtype=np.float32)
        self.advantages = np.zeros(shape, dtype=np.float32)
        self.episode_starts = np.zeros(shape, dtype=np.float32)
        # These stay on the model's device while sampling: one transfer a rollout instead of two a step.
        self._values = torch.zeros(shape, device=self.device)
        self._log_probs = torch.zeros(shape, device=self.device)
        self._lengths = np.zeros(shape, dtype=np.int64)  # ids of each state: the place of its action
        self._ends: list[list[_End]] = [[] for _ in range(self.n_envs)]  # of each row's stretches
        self.trajectories: list[Trajectory] = []  # what `get` deals
        self._packed: PackedEpisodes | None = None  # all of them
        self._columns: tuple[np.ndarray, ...] = ()  # values, log-probs, advantages, returns [M], in packed order
        self._closed_tokens: list[int] = []  # of this rollout, in each episode that `_settle` returns
        self._fresh: np.ndarray | bool = True  # which of them were sampled in this rollout
        self._compared = False  # whether a minibatch's log-probabilities are, with those that were sampled
        if self.policy is not None:
            self.policy.values_after_rollout = True
            self.policy.sampler_gap.expect(None)
            self._look_ahead(self.buffer_size)
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
        for over in action.ended:
            self._ends[over.row].append(_End(at + 1, obs[over.row], over))
        if at == self.buffer_size - 1 or (at == 0 and self._broken_off):
            for ends, newest in zip(self._ends, obs, strict=True):
                if not ends or ends[-1].steps <= at:
                    ends.append(_End(at + 1, newest, None))
        self._lengths[at] = (obs >= 0).sum(axis=1)
        self.actions[at] = action.reshape(self.n_envs)
        self.rewards[at] = reward
        self.episode_starts[at] = episode_start
        self._values[at] = value.detach().flatten()
        self._log_probs[at] = log_prob.detach().flatten()
        self.pos += 1
        self.full = self.pos == self.buffer_size
        action.env.follow()
        self._look_ahead(self.buffer_size - self.pos)  # again: a callback may have stepped the policy elsewhere

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Add the deferred scores to the rewards, charge the deferred KL, then SB3's GAE."""
        self._settle()
        super().compute_returns_and_advantage(last_values, dones)
        columns = (self.values, self.log_probs, self.advantages, self.returns)
        self._columns = tuple(column[self._place] for column in columns)

    def _settle(self) -> list[tuple[Trajectory, EndedRow]]:
        """Have the responses scored, pack the rollout, fill in values that are not known yet, and charge the KL.

        Returns the episodes that are over: what there is of each in consecutive rollouts, and the environment's record.
        """
        assert self.env is not None
        assert self.policy is not None
        assert self.accounts is not None
        self.log_probs, self.values = self._log_probs.cpu().numpy(), self._values.cpu().numpy()
        check_log_probs(self.log_probs)
        self._settle_scores()
        stretches, records = self._stretches()
        self._pack([stretch.trajectory for stretch in stretches])
        assert self._packed is not None
        core = self.policy.actor_critic
        if self.policy.old_log_probs == "recomputed":
            sampled, recomputed = torch.from_numpy(self.log_probs[self._place]), core.log_probs(self._packed).cpu()
            self.policy.sampler_gap.found(sampler_gap(sampled, recomputed))
            self.log_probs[self._place] = recomputed.numpy()
        if core.values_later:
            with torch.no_grad():
                self.values[self._place] = core.states(self._packed).values.cpu().numpy()
        bounds = np.cumsum([len(trajectory) for trajectory in self.trajectories])[:-1]
        columns = (np.split(column[self._place], bounds) for column in (self.log_probs, self.rewards, self.values))
        for trajectory, log_probs, rewards, values in zip(self.trajectories, *columns, strict=True):
            trajectory.log_probs, trajectory.rewards, trajectory.values = log_probs, rewards, values
        self.accounts.charge(stretches, self._packed, core)
        self.rewards[self._place] = np.concatenate([trajectory.rewards for trajectory in self.trajectories])
        check_rewards(self.rewards)
        closed = zip(self.accounts.settle(stretches), records, strict=True)
        over = [(whole, record) for whole, record in closed if record is not None]
        last = [len(stretch.trajectory) for stretch in stretches if stretch.over]
        self._closed_tokens = [count for count, record in zip(last, records, strict=True) if record is not None]
        for whole, record in over if self.accounts.deferred else ():
            record.report(whole.kl_sum)
        # Where the environment charges, its own record says what.
        reported = [whole if self.accounts.deferred else record.episode for whole, record in over]
        self.episodes = [episode for episode in reported if episode.finish_reason]
        self._settled_at = (self.env.resets, self.env.steps)
        self.policy.values_after_rollout = False
        return over

    def _settle_scores(self) -> None:
        """Put the deferred scores into the rewards of the rollout."""
        assert self.env is not None
        if self.env.env.rules.score_mode != "deferred":
            return
        self.env.settle_scores()
        for row, ends in enumerate(self._ends):
            for end, _, record in ends:
                if record is not None and record.episode.finish_reason:
                    self.rewards[end - 1, row] = record.episode.rewards[-1]

    def _stretches(self) -> tuple[list[Stretch], list[EndedRow | None]]:
        """The rollout row by row, each in time order; and what the environment says of those whose account closes."""
        assert self.env is not None
        stretches, records, steps, rows = [], [], [], []
        for row, ends in enumerate(self._ends):
            start = 0
            for end, newest, record in ends:
                ids = np.append(newest[newest >= 0], self.actions[end - 1, row])
                is_action = np.zeros(len(ids), dtype=bool)
                is_action[self._lengths[start:end, row]] = True
                if record is None:
                    trajectory = Trajectory(ids, is_action, kl_coef=float(self.env.env.kl_coefs[row]))
                else:
                    trajectory = record.episode.with_actions(ids, is_action)
                # A stretch that ends before the rollout does is over, or is not put together with what follows.
                over = record is not None or end < self.buffer_size
                stretches.append(Stretch(row, trajectory, over))
                records += [record] if over else []
                steps.append(np.arange(start, end))
                rows.append(np.full(end - start, row))
                start = end
        self._place = (np.concatenate(steps), np.concatenate(rows))
        return stretches, records

    def _pack(self, trajectories: list[Trajectory]) -> None:
        self.trajectories, self._packed = trajectories, pack(trajectories, self.device)

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches of whole sequences: `observations` is a PackedEpisodes, the rest flat, one entry a transition."""
        if self._packed is None:
            raise ConfigError("the rollout buffer is not full yet: collect a whole rollout before get()")
        sizes = np.array([len(trajectory) for trajectory in self.trajectories])
        total = int(sizes.sum())
        count = 1 if batch_size is None else max(1, round(total / batch_size))
        order = np.random.permutation(len(sizes))
        # Cut where the running count is nearest to the ideal boundary, so that the minibatches are alike in size.
        middles = np.cumsum(sizes[order]) - sizes[order] / 2
        batch_of = np.minimum((middles * count / total).astype(np.int64), count - 1)
        offsets = np.cumsum(sizes) - sizes
        comparing = self._to_compare()
        for batch in range(count):
            chosen = order[batch_of == batch]
            if not len(chosen):
                continue
            packed = self._packed
            if count > 1:
                packed = pack([self.trajectories[i] for i in chosen], self.device)
            else:
                chosen = np.arange(len(sizes))
            flat = np.concatenate([np.arange(offsets[i], offsets[i] + sizes[i]) for i in chosen])
            columns: list[Any] = [self.to_torch(column[flat]) for column in self._columns]
            if comparing is not None:
                assert self.policy is not None
                self.policy.sampler_gap.expect(self.to_torch(comparing[flat]))
                comparing = None
            yield RolloutBufferSamples(packed, packed.actions, *columns)  # type: ignore[arg-type]

    def _to_compare(self) -> np.ndarray | None:
        """Log-probabilities [M] to compare with those of the first minibatch that is dealt from a rollout; else None.

        NaN where a token was sampled by an earlier policy.
        """
        if self._compared or self.policy is None or self.policy.old_log_probs == "recomputed":
            return None
        self._compared = True
        log_probs: np.ndarray = np.where(self._fresh, self._columns[1], np.nan).astype(np.float32)
        return log_probs
