"""Q-learning and SARSA on a table of states: reference points on a task that can be enumerated.

A state is a prompt with the tokens so far. Both are the entropy-regularised kind (Haarnoja et al. 2017,
https://arxiv.org/abs/1702.08165): with the KL coefficient as temperature and the environment charging the
cross-entropy, the policy `softmax(Q / temperature)` that they converge to is the optimum of KL-regularised RL, since
KL = cross-entropy - entropy. (A greedy policy, which plain Q-learning ends in, pays -log pi_ref for being sure.)
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean

from textrl_agents.policy import LogitStates, Policy
from textrl_agents.sb3.buffers.sampled_tokens import SampledTensor
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_env.errors import ConfigError
from textrl_env.models import PackedEpisodes, Vocabulary
from textrl_env.models.actor_critic import Step
from textrl_env.tasks.enumeration import MAX_RESPONSES


class TabularPolicy(BasePolicy, Policy):
    """`softmax(Q / temperature)` over a table with a row for each state seen; a state not seen has Q = 0."""

    def __init__(
        self,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Discrete[Any],
        lr_schedule: Schedule,
        *,
        temperature: float,
        vocabulary: Vocabulary,
    ):
        super().__init__(observation_space, action_space)
        self.temperature, self.vocabulary, self.lm = temperature, vocabulary, None
        self.q = np.zeros((1024, int(action_space.n)))  # [states, V]; grows by doubling
        self.visits = np.zeros(self.q.shape, dtype=np.int64)
        self._rows: dict[bytes, int] = {}

    @property
    def actor_critic(self) -> TabularPolicy:
        return self

    def rows(self, observations: np.ndarray) -> np.ndarray:
        """int64 [N], the table's rows of observations int64 [N, L] right-padded with -1; new states get new rows."""
        return np.array([self._row(ids[ids >= 0]) for ids in observations])

    def _row(self, ids: np.ndarray) -> int:
        row = self._rows.setdefault(ids.tobytes(), len(self._rows))
        if row == len(self.q):
            self.q, self.visits = (np.concatenate([table, np.zeros_like(table)]) for table in (self.q, self.visits))
        return row

    def log_probs(self, rows: np.ndarray) -> np.ndarray:
        """float64 [N, V]"""
        scaled = self.q[rows] / self.temperature
        log_probs: np.ndarray = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
        return log_probs

    def get_extra_state(self) -> dict[str, torch.Tensor]:
        """The table as tensors: part of `state_dict`, and so of what SB3 saves."""
        states = [torch.from_numpy(np.frombuffer(ids, dtype=np.int64).copy()) for ids in self._rows]
        q, visits = (torch.from_numpy(table[: len(states)].copy()) for table in (self.q, self.visits))
        ids = torch.nn.utils.rnn.pad_sequence(states, batch_first=True, padding_value=-1) if states else q.new_zeros(0)
        return {"states": ids, "q": q, "visits": visits}

    def set_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take a table that `get_extra_state` gave in place of this one."""
        self._rows.clear()
        self.rows(state["states"].cpu().numpy())  # in their order; makes room
        for table, saved in ((self.q, state["q"]), (self.visits, state["visits"])):
            table[:] = 0
            table[: len(saved)] = saved.cpu().numpy()

    def soft_values(self, rows: np.ndarray) -> np.ndarray:
        """V(s) = temperature * log sum exp(Q(s, .) / temperature), float64 [N]."""
        values: np.ndarray = self.temperature * np.logaddexp.reduce(self.q[rows] / self.temperature, axis=1)
        return values

    def draw(self, rows: np.ndarray, *, deterministic: bool = False) -> np.ndarray:
        """Tokens int64 [N], with torch's generator as every policy here."""
        log_probs = torch.from_numpy(self.log_probs(rows))
        if deterministic:
            return log_probs.argmax(dim=1).numpy()
        return torch.multinomial(log_probs.exp(), 1).squeeze(1).numpy()

    def step(self, observations: torch.Tensor, *, deterministic: bool = False) -> Step:
        """Draw the next token of each observation, as a Policy does."""
        rows = self.rows(observations.cpu().numpy())
        tokens = self.draw(rows, deterministic=deterministic)
        chosen = np.zeros(len(rows)) if deterministic else self.log_probs(rows)[np.arange(len(rows)), tokens]
        columns = (tokens, chosen.astype(np.float32), self.soft_values(rows).astype(np.float32))
        return Step(*(torch.from_numpy(column) for column in columns))

    def states(self, shown: torch.Tensor | PackedEpisodes) -> LogitStates:
        """The states of observations or of sequences, as a Policy's; they carry no gradients."""
        if isinstance(shown, PackedEpisodes):
            ids, places = shown.input_ids.cpu().numpy(), zip(shown.rows.tolist(), shown.columns.tolist(), strict=True)
            rows = np.array([self._row(ids[row, : column + 1]) for row, column in places])
        else:
            rows = self.rows(shown.cpu().numpy())
        columns = (self.log_probs(rows), self.soft_values(rows))
        return LogitStates(*(torch.from_numpy(column.astype(np.float32)) for column in columns))

    def forward(self, obs: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        return self._predict(obs, deterministic)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        action = self.step(observation, deterministic=deterministic)
        return SampledTensor.of(action.tokens, action.log_probs, self, in_rollout=False)


class QLearning(BaseAlgorithm):
    """Soft Q-learning: `Q(s, a) += rate * (r + V(s') - Q(s, a))`, V as in `TabularPolicy.soft_values`.

    learning_rate: 1.0 is right where transitions and rewards are deterministic, as here.
    exploration: share of actions that are uniformly random; what is learned is the policy's own value all the same.
    n_steps: steps between two callbacks of a rollout's end.
    """

    policy: TabularPolicy

    def __init__(
        self,
        policy: type[TabularPolicy],
        env: TextVecEnv | None,
        learning_rate: float | Schedule = 1.0,
        exploration: float = 0.5,
        n_steps: int = 64,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        tensorboard_log: str | None = None,
        _init_setup_model: bool = True,
    ):
        if env is not None:  # else a saved table is being loaded for `predict` alone
            policy_kwargs = {**_wiring(env), **(policy_kwargs or {})}
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            tensorboard_log=tensorboard_log,
            support_multi_env=True,
            supported_action_spaces=(gymnasium.spaces.Discrete,),
        )
        if not 0 <= exploration <= 1:
            raise ConfigError(f"exploration must be between 0 and 1, got {exploration!r}")
        self.exploration, self.n_steps = exploration, n_steps
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        policy = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs)
        assert isinstance(policy, TabularPolicy)
        self.policy = policy

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "tabular",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> QLearning:
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        coef = self.env.env.kl_penalty.coef  # type: ignore[attr-defined]
        if coef != self.policy.temperature:
            raise ConfigError(
                f"this table was made for kl_coef={self.policy.temperature}, which is its temperature, and the "
                f"environment charges {coef}: give it an environment with its own kl_coef"
            )
        callback.on_training_start(locals(), globals())
        iteration = 0
        rows = self.policy.rows(self._last_obs)  # type: ignore[arg-type]
        actions = self._explore(rows)
        going_on = True
        while self.num_timesteps < total_timesteps and going_on:
            callback.on_rollout_start()
            for _ in range(self.n_steps):
                observations, rewards, dones, infos = self.env.step(actions)
                self._last_obs = observations  # type: ignore[assignment]
                self.num_timesteps += self.env.num_envs
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                next_rows = self.policy.rows(observations)  # type: ignore[arg-type]
                next_actions = self._explore(next_rows)
                targets = rewards + self._bootstrap(next_rows, next_actions, dones, infos)
                # One by one: two rows may be in the same state.
                for row, action, target in zip(rows, actions, targets, strict=True):
                    self.policy.visits[row, action] += 1
                    rate = self._rate(int(self.policy.visits[row, action]))
                    self.policy.q[row, action] += rate * (target - self.policy.q[row, action])
                rows, actions = next_rows, next_actions
                self._update_info_buffer(infos, dones)
                callback.update_locals(locals())
                if not callback.on_step():
                    going_on = False
                    break
            callback.on_rollout_end()
            iteration += 1
            if log_interval is not None and iteration % log_interval == 0:
                self._dump_logs()
        callback.on_training_end()
        return self

    def _dump_logs(self) -> None:
        assert self.ep_info_buffer is not None
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _explore(self, rows: np.ndarray) -> np.ndarray:
        actions = self.policy.draw(rows)
        if self.exploration == 0:
            return actions
        uniform = torch.randint(self.policy.q.shape[1], (len(rows),)).numpy()
        return np.where(torch.rand(len(rows)).numpy() < self.exploration, uniform, actions)

    def _rate(self, visits: int) -> float:
        return self.lr_schedule(self._current_progress_remaining)

    def _bootstrap(
        self, rows: np.ndarray, actions: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> np.ndarray:
        """What follows each transition, float64 [N]: 0 at an end, and the last state's value where it was cut off."""
        cut = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        if cut.any():
            last = np.stack([info["terminal_observation"] for info in np.array(infos)[cut]])
            rows, actions = rows.copy(), actions.copy()
            rows[cut] = self.policy.rows(last)
            actions[cut] = self.policy.draw(rows[cut])
        return np.where(dones & ~cut, 0.0, self._following(rows, actions))

    def _following(self, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The value of the states `rows`, where `actions` are drawn next, float64 [N]."""
        return self.policy.soft_values(rows)


def _wiring(env: TextVecEnv) -> dict[str, Any]:
    """What a TabularPolicy takes from its environment. Raises ConfigError where a table cannot hold its states."""
    rules = env.env.rules
    temperature, size = env.env.kl_penalty.coef, rules.vocabulary.size
    if temperature <= 0 or size**rules.max_new_tokens > MAX_RESPONSES:
        raise ConfigError(
            f"a table needs kl_coef > 0 and a task with few states, such as 'exact'; got kl_coef={temperature} and "
            f"{size} tokens in {rules.max_new_tokens} steps"
        )
    return {"temperature": temperature, "vocabulary": rules.vocabulary}


class SARSA(QLearning):
    """Soft SARSA: `Q(s, a) += rate * (r + Q(s', a') - temperature * log pi(a'|s') - Q(s, a))`.

    The next action is a sample, so its noise is averaged: the rate is `visits ** -0.6`, but at least `learning_rate`.
    """

    def __init__(self, policy: Any, env: TextVecEnv | None, learning_rate: float | Schedule = 0.01, **arguments: Any):
        if "exploration" in arguments:
            raise ConfigError("SARSA learns the value of the policy that acts: it has no exploration beside it")
        super().__init__(policy, env, learning_rate, 0.0, **arguments)

    def _rate(self, visits: int) -> float:
        rate: float = visits**-0.6
        return max(super()._rate(visits), rate)

    def _following(self, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
        log_probs = self.policy.log_probs(rows)[np.arange(len(rows)), actions]
        values: np.ndarray = self.policy.q[rows, actions] - self.policy.temperature * log_probs
        return values
