"""The learner connector: from sampled episodes to a train batch of whole sequences.

It replaces RLlib's default pieces. Each stretch of an episode becomes one row and is run once, by the policy and by the
reference; the KL is charged before advantages are computed; padding has no part in any of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from textrl_agents.rllib.connectors.batch import action_counts, as_tensors
from textrl_agents.rllib.connectors.stretches import LearnerExchange, stretch_of
from textrl_agents.training.divergence import RewardRange, check_log_probs, check_rewards, reward_range
from textrl_agents.training.rlhf_metrics import rlhf_metrics
from textrl_agents.training.sampler_gap import sampler_gap
from textrl_env.accounts import KLAccounts
from textrl_env.kl import KLPenalty
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, pack
from textrl_env.trajectory import Trajectory

# Where our metrics stand in the learner's results; RLlib does not take it for the name of a module.
METRICS_KEY = "rlhf"
# Episodes in `rollout/ep_rew_mean`, as many as in SB3's.
RECENT = 100


class PackEpisodes(ConnectorV2):
    """Packs episodes, charges the KL and logs RLHF metrics; subclasses add what their algorithm's loss reads.

    penalty: makes the KLPenalty at the first batch, on the device of the policy that is passed to it.
    kl_mode: the environment's.
    old_log_probs: "sampled", or "recomputed" by one more pass over each batch.
    """

    on_policy = False  # whether a batch is of the policy that the learner has

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        penalty: Callable[[CausalLMActorCritic], KLPenalty],
        kl_mode: str,
        old_log_probs: str = "sampled",
        **kwargs: Any,
    ):
        super().__init__(input_observation_space, input_action_space, **kwargs)
        self.kl_mode, self.old_log_probs = kl_mode, old_log_probs
        self.accounts: KLAccounts | None = None
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT)  # (return, tokens) of the last episodes
        self.rewards_seen: RewardRange | None = None  # of the last batch, with the KL charged
        self._make_penalty, self._exchange = penalty, LearnerExchange()
        self._saved: dict[str, Any] | None = None

    def __call__(
        self, *, rl_module: Any, batch: dict[str, Any], episodes: list[Any], shared_data: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        module, metrics = rl_module[DEFAULT_MODULE_ID].unwrapped(), kwargs.get("metrics")
        core = module.actor_critic
        module.sampler_gap.due = self.on_policy and self.old_log_probs == "sampled"
        trajectories, packed = self.charge(episodes, core, metrics)
        # RLlib shuffles rows that are sequences only where this says that they are padded.
        shared_data[f"_zero_padded_for_mid={DEFAULT_MODULE_ID}"] = True
        counts = action_counts(trajectories)
        columns = {Columns.SEQ_LENS: counts, **self._columns(trajectories, packed, core, metrics)}
        batch[DEFAULT_MODULE_ID] = as_tensors(columns, core.device)
        return batch

    @abstractmethod
    def _columns(
        self, trajectories: list[Trajectory], packed: PackedEpisodes, core: CausalLMActorCritic, metrics: Any
    ) -> dict[str, Any]:
        """Columns [B, W] of the train batch, and OBS."""

    def charge(
        self, episodes: Sequence[Any], core: CausalLMActorCritic, metrics: Any = None
    ) -> tuple[list[Trajectory], PackedEpisodes]:
        """The stretches of `episodes`, packed, with the deferred KL taken off their rewards.

        Those without a step yet are left out. One that has not terminated goes on, or was cut off.
        """
        accounts = self._accounts_for(core)
        stretches = [stretch_of(each, accounts.coef(str(each.id_)), self.kl_mode) for each in episodes if len(each)]
        trajectories = [stretch.trajectory for stretch in stretches]
        check_log_probs(np.concatenate([trajectory.log_probs for trajectory in trajectories]))
        packed = pack(trajectories, core.device)
        if self.old_log_probs == "recomputed":
            log_values(metrics, recompute_log_probs(trajectories, packed, core))
        accounts.charge(stretches, packed, core)
        over = accounts.settle(self._exchange(stretches))
        terminated = [episode for episode in over if episode.finish_reason]
        if terminated and not accounts.deferred:
            accounts.penalty.controller.value = terminated[-1].kl_coef  # the environment's own, which adapts there
        self.recent += [(episode.episode_return, len(episode)) for episode in over]
        logged = {**rlhf_metrics(terminated, self.kl_mode), "objective/kl_coef": accounts.penalty.coef}
        if self.recent:
            logged["rollout/ep_rew_mean"], logged["rollout/ep_len_mean"] = np.mean(self.recent, axis=0).tolist()
        log_values(metrics, logged)
        rewards = np.concatenate([trajectory.rewards for trajectory in trajectories])
        check_rewards(rewards)
        self.rewards_seen = reward_range(rewards)
        return trajectories, packed

    def _accounts_for(self, core: CausalLMActorCritic) -> KLAccounts:
        if self.accounts is None:
            # Built here and not before: a reference is loaded by its name, never sent in a configuration.
            self.accounts = KLAccounts(self._make_penalty(core), deferred=self.kl_mode == "deferred")
            if self._saved is not None:
                self.accounts.load_state_dict(self._saved)
        return self.accounts

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The open episodes, the last returns and the KL coefficient."""
        if self.accounts is None:
            return self._saved or {}
        return {**self.accounts.state_dict(), "recent": [list(entry) for entry in self.recent]}

    def set_state(self, state: dict[str, Any]) -> None:
        self._saved = state or None
        if state:
            self.recent = deque(((worth, tokens) for worth, tokens in state["recent"]), maxlen=RECENT)
        if self.accounts is not None and state:
            self.accounts.load_state_dict(state)


def recompute_log_probs(
    trajectories: Sequence[Trajectory], packed: PackedEpisodes, core: CausalLMActorCritic
) -> dict[str, float]:
    """Replace the log-probabilities of trajectories by those of an update; returns `sampler_gap` of the two."""
    recomputed = core.log_probs(packed).cpu()
    sampled = np.concatenate([trajectory.log_probs for trajectory in trajectories]).astype(np.float32)
    bounds = np.cumsum([len(trajectory) for trajectory in trajectories])[:-1]
    for trajectory, log_probs in zip(trajectories, np.split(recomputed.numpy(), bounds), strict=True):
        trajectory.log_probs = log_probs
    return sampler_gap(torch.from_numpy(sampled), recomputed)


def log_values(metrics: Any, values: dict[str, float]) -> None:
    """Log into RLlib's metrics, where there are any."""
    for name, value in values.items() if metrics is not None else ():
        metrics.log_value((DEFAULT_MODULE_ID, METRICS_KEY, name), value, window=1)
