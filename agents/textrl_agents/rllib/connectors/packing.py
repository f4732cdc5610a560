"""The learner connector: from sampled episodes to a train batch of whole sequences.

It replaces RLlib's default pieces. Each stretch of an episode becomes one row and is run once, by the policy and by the
reference; the KL is charged before advantages are computed; padding has no part in any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

from textrl_agents.rllib.connectors.batch import FIRST, IDS, STATES
from textrl_agents.rllib.ledger import EpisodeLedger, Stretch
from textrl_agents.training.divergence import RewardRange, check_log_probs, check_rewards, reward_range
from textrl_agents.training.rlhf_metrics import rlhf_metrics
from textrl_env.kl import KLPenalty
from textrl_env.models import CausalLMActorCritic, PackedEpisodes, pack
from textrl_env.trajectory import Trajectory

# A place in the learner's results that RLlib does not take for the name of a module.
METRICS_KEY = "rlhf"


class Rollout(NamedTuple):
    """The stretches of one batch. Arrays are flat, row after row, one entry a token."""

    sequences: list[np.ndarray]  # int64 ids, prompt and response so far
    counts: np.ndarray  # int64 [B], tokens of each that are actions
    log_probs: np.ndarray  # float32 [M], when they were sampled
    rewards: np.ndarray  # float64 [M]
    terminated: np.ndarray  # bool [B]; any other stretch goes on, or was cut off: its value stands in for the rest
    over: np.ndarray  # bool [B], terminated or cut off by a time limit
    episode_ids: list[str]
    final_infos: list[dict[str, Any] | None]

    @classmethod
    def of(cls, episodes: Sequence[Any]) -> Rollout:
        """From `SingleAgentEpisode`s; what has no step yet is left out."""
        episodes = [episode for episode in episodes if len(episode)]
        newest = [np.asarray(episode.get_observations(-1)) for episode in episodes]
        return cls(
            sequences=[ids[ids >= 0] for ids in newest],
            counts=np.array([len(episode) for episode in episodes], dtype=np.int64),
            log_probs=_flat([episode.get_extra_model_outputs(Columns.ACTION_LOGP) for episode in episodes], np.float32),
            rewards=_flat([episode.get_rewards() for episode in episodes], np.float64),
            terminated=np.array([episode.is_terminated for episode in episodes], dtype=bool),
            over=np.array([episode.is_done for episode in episodes], dtype=bool),
            episode_ids=[str(episode.id_) for episode in episodes],
            final_infos=[episode.get_infos(-1) if episode.is_terminated else None for episode in episodes],
        )

    @property
    def first_actions(self) -> np.ndarray:
        """int64 [B], ids before each row's first action."""
        return np.array([len(ids) for ids in self.sequences], dtype=np.int64) - self.counts


class PackEpisodes(ConnectorV2):
    """Packs episodes, charges the KL and logs RLHF metrics; subclasses add what their algorithm's loss reads.

    penalty: makes the KLPenalty at the first batch, on the device of the policy that is passed to it.
    kl_mode: the environment's.
    """

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        penalty: Callable[[CausalLMActorCritic], KLPenalty],
        kl_mode: str,
        **kwargs: Any,
    ):
        super().__init__(input_observation_space, input_action_space, **kwargs)
        self.kl_mode = kl_mode
        self.ledger: EpisodeLedger | None = None
        self.rewards_seen: RewardRange | None = None  # of the last batch, with the KL charged
        self._make_penalty = penalty
        self._saved: dict[str, Any] | None = None

    def __call__(
        self, *, rl_module: Any, batch: dict[str, Any], episodes: list[Any], shared_data: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        core = rl_module[DEFAULT_MODULE_ID].unwrapped().actor_critic
        rollout, packed = self.charge(episodes, core, kwargs.get("metrics"))
        # Otherwise RLlib refuses to shuffle rows that are sequences.
        shared_data[f"_zero_padded_for_mid={DEFAULT_MODULE_ID}"] = True
        columns = {Columns.SEQ_LENS: rollout.counts, **self._columns(rollout, packed, core, kwargs.get("metrics"))}
        batch[DEFAULT_MODULE_ID] = _tensors(columns, core.device)
        return batch

    def _columns(
        self, rollout: Rollout, packed: PackedEpisodes, core: CausalLMActorCritic, metrics: Any
    ) -> dict[str, Any]:
        """Columns [B, W] of the train batch, and OBS."""
        raise NotImplementedError

    def charge(
        self, episodes: Sequence[Any], core: CausalLMActorCritic, metrics: Any = None
    ) -> tuple[Rollout, PackedEpisodes]:
        """The stretches of `episodes`, packed, with the deferred KL taken off their rewards."""
        ledger, rollout = self._ledger_for(core), Rollout.of(episodes)
        check_log_probs(rollout.log_probs)
        packed = _pack(rollout.sequences, rollout.first_actions.tolist(), core.device)
        starts = np.cumsum(rollout.counts) - rollout.counts
        coefs = np.repeat([ledger.kl_coef(name) for name in rollout.episode_ids], rollout.counts)
        kl = np.zeros(len(rollout.rewards))
        if ledger.deferred:
            kl = ledger.penalty(packed, torch.from_numpy(rollout.log_probs), core).kl.double().cpu().numpy()
        columns = (kl, -rollout.log_probs.astype(np.float64), rollout.rewards)
        sums = (np.add.reduceat(column, starts).tolist() for column in columns)
        entries = (rollout.episode_ids, *sums, rollout.counts.tolist(), rollout.over.tolist(), rollout.final_infos)
        ended = ledger.settle([Stretch(*entry) for entry in zip(*entries, strict=True)])
        logged = {**rlhf_metrics(ended, self.kl_mode), "objective/kl_coef": ledger.penalty.coef}
        if ledger.recent:
            logged["rollout/ep_rew_mean"], logged["rollout/ep_len_mean"] = np.mean(ledger.recent, axis=0).tolist()
        _log(metrics, logged)
        rewards = rollout.rewards - coefs * kl
        check_rewards(rewards)
        self.rewards_seen = reward_range(rewards)
        return rollout._replace(rewards=rewards), packed

    def _ledger_for(self, core: CausalLMActorCritic) -> EpisodeLedger:
        if self.ledger is None:
            # Built where it is used: a reference is loaded by its name, never sent in a configuration.
            self.ledger = EpisodeLedger(self._make_penalty(core), deferred=self.kl_mode == "deferred")
            if self._saved is not None:
                self.ledger.load_state_dict(self._saved)
        return self.ledger

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The open accounts and the KL coefficient."""
        if self.ledger is None:
            return self._saved or {}
        return self.ledger.state_dict()

    def set_state(self, state: dict[str, Any]) -> None:
        self._saved = state or None
        if self.ledger is not None and state:
            self.ledger.load_state_dict(state)


class PackForPPO(PackEpisodes):
    """With advantages and value targets: GAE over each stretch, by one forward of the value function.

    gamma: discount. lambda_: GAE's. Advantages are normalised over the batch's tokens.
    """

    def __init__(self, *arguments: Any, gamma: float, lambda_: float, **kwargs: Any):
        super().__init__(*arguments, **kwargs)
        self.gamma, self.lambda_ = gamma, lambda_

    def _columns(
        self, rollout: Rollout, packed: PackedEpisodes, core: CausalLMActorCritic, metrics: Any
    ) -> dict[str, Any]:
        mask = _mask(rollout.counts)
        values, targets = self._value_targets(rollout, core)
        advantages = targets - values
        if (variance := float(targets.var())) > 0:
            # SB3's definition: of the values that the update starts from, padding left out.
            _log(metrics, {"train/explained_variance": 1.0 - float((targets - values).var()) / variance})
        if len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
        log_probs = _spread(rollout.log_probs, mask)
        return {
            Columns.OBS: {IDS: packed.input_ids, FIRST: rollout.first_actions, STATES: rollout.counts},
            Columns.ACTIONS: _spread(packed.actions.cpu().numpy(), mask),
            Columns.ACTION_LOGP: log_probs,
            # `TakenTokens` of the policy that sampled; its entropy is asked of nobody.
            Columns.ACTION_DIST_INPUTS: np.stack([log_probs, np.zeros_like(log_probs)], axis=-1),
            Columns.LOSS_MASK: mask,
            Columns.ADVANTAGES: _spread(advantages.astype(np.float32), mask),
            Columns.VALUE_TARGETS: _spread(targets.astype(np.float32), mask),
        }

    def _value_targets(self, rollout: Rollout, core: CausalLMActorCritic) -> tuple[np.ndarray, np.ndarray]:
        """Values and GAE's targets of the tokens, float32 [M]."""
        # RLlib's GAE takes each stretch with one more step, whose value is what a stretch that was cut is worth. One
        # that has ended needs none, and gets the value of its last state in that place: nothing reads it.
        longer = rollout.counts + 1
        real = _mask(rollout.counts, width=int(longer.max()))[_mask(longer)]
        values = _bootstrapped_values(rollout, core)
        ends = np.cumsum(longer) - 2
        rewards, terminated, truncated = (np.zeros(len(real), dtype=kind) for kind in (np.float64, bool, bool))
        rewards[real] = rollout.rewards
        terminated[ends], truncated[ends] = rollout.terminated, ~rollout.terminated
        targets = compute_value_targets(values, rewards, terminated, truncated, self.gamma, self.lambda_)
        return values[real], targets[real]


class PackForVTrace(PackEpisodes):
    """For IMPALA and APPO, whose losses compute their targets from the rewards: one column more, to bootstrap from.

    Their V-trace replaces a value by its target before it hands it to the step before, and the extra column's target is
    its reward alone. So that is where the value of a stretch that was cut goes. (The column has a state too, for
    clipping thresholds under which the value itself does not cancel.)
    """

    @torch.no_grad()
    def _columns(
        self, rollout: Rollout, packed: PackedEpisodes, core: CausalLMActorCritic, metrics: Any
    ) -> dict[str, Any]:
        width = int(rollout.counts.max()) + 1
        mask = _mask(rollout.counts, width=width)
        states = rollout.counts + ~rollout.terminated
        rewards = _spread(rollout.rewards.astype(np.float32), mask)
        cut = np.flatnonzero(~rollout.terminated)
        if len(cut):
            sequences = [_with_last_state(rollout.sequences[row]) for row in cut]
            last = _pack(sequences, [len(ids) - 1 for ids in sequences], core.device)
            rewards[cut, rollout.counts[cut]] = core.states(last).values.cpu().numpy()
        terminated = np.zeros(mask.shape, dtype=bool)
        terminated[np.arange(len(mask)), rollout.counts - 1] = rollout.terminated
        firsts = rollout.first_actions.tolist()
        # The last token is an id too where it ends a state.
        ids = _pack([_with_last_state(sequence) for sequence in rollout.sequences], firsts, core.device)
        return {
            Columns.OBS: {IDS: ids.input_ids, FIRST: rollout.first_actions, STATES: states},
            Columns.ACTIONS: _spread(packed.actions.cpu().numpy(), mask),
            Columns.ACTION_LOGP: _spread(rollout.log_probs, mask),
            Columns.LOSS_MASK: mask,
            Columns.REWARDS: rewards,
            Columns.TERMINATEDS: terminated,
        }


@torch.no_grad()
def _bootstrapped_values(rollout: Rollout, core: CausalLMActorCritic) -> np.ndarray:
    """float32, for each row the values of its states and one more: the state after a stretch that was cut, or 0."""
    cut = ~rollout.terminated
    rows = zip(rollout.sequences, cut, strict=True)
    sequences = [_with_last_state(ids) if goes_on else ids for ids, goes_on in rows]
    packed = _pack(sequences, rollout.first_actions.tolist(), core.device)
    values = np.zeros(int((rollout.counts + 1).sum()), dtype=np.float32)
    width = int(rollout.counts.max()) + 1
    known = _mask(rollout.counts + cut, width=width)[_mask(rollout.counts + 1)]
    values[known] = core.states(packed).values.cpu().numpy()
    return values


def _pack(sequences: Sequence[np.ndarray], firsts: Sequence[int], device: Any) -> PackedEpisodes:
    return pack([Trajectory.of_response(s[:f], s[f:]) for s, f in zip(sequences, firsts, strict=True)], device)


def _with_last_state(ids: np.ndarray) -> np.ndarray:
    """With an arbitrary action behind the last token, so that a state ends there."""
    return np.append(ids, 0)


def _mask(counts: np.ndarray, width: int | None = None) -> np.ndarray:
    """bool [B, W], True in the first `counts[b]` columns of row b."""
    return np.arange(int(counts.max()) if width is None else width) < counts[:, None]


def _spread(flat: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[M] to [B, W], 0 beyond each row's end."""
    padded = np.zeros(mask.shape, dtype=flat.dtype)
    padded[mask] = flat
    return padded


def _flat(parts: Sequence[Any], dtype: Any) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts])


def _log(metrics: Any, values: dict[str, float]) -> None:
    for name, value in values.items() if metrics is not None else ():
        metrics.log_value((DEFAULT_MODULE_ID, METRICS_KEY, name), value, window=1)


def _tensors(columns: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: _tensors(column, device) if isinstance(column, dict) else torch.as_tensor(column, device=device)
        for name, column in columns.items()
    }
