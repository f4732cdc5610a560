"""What the deferred KL costs, and which episode pays: for every adapter.

In `kl_mode="deferred"` the environment pays the score alone. What was sampled comes back in stretches: an adapter's
rollouts cut episodes anywhere. The KL of all stretches takes one pass of the reference. Each is taken off its own
rewards, and an episode's stretches are put together until it is over, so that the return that is logged is the return
that is trained.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch

from textrl_env.kl import KLPenalty, Sampler
from textrl_env.models.packing import PackedEpisodes, pack
from textrl_env.trajectory import Trajectory

# Settlements after which an episode without a new stretch is forgotten: the process that sampled it is gone.
FORGET_AFTER = 100


def charge_kl(
    trajectories: Sequence[Trajectory],
    penalty: KLPenalty,
    policy: Sampler | None = None,
    *,
    packed: PackedEpisodes | None = None,
) -> None:
    """Fill in the `kl` of trajectories by `penalty`'s estimator, and take it off their rewards at their own `kl_coef`.

    Their `log_probs` must be known. policy: what sampled them; needed by the "full" estimator alone. packed: the
    trajectories' actions, where they are packed already.
    """
    if not trajectories:
        return
    if packed is None:
        packed = pack(trajectories, penalty.require_reference().lm.device)
    log_probs = np.concatenate([trajectory.log_probs for trajectory in trajectories]).astype(np.float32)
    kl = penalty(packed, torch.from_numpy(log_probs).to(packed.rows.device), policy).kl.double().cpu().numpy()
    ends = np.cumsum([len(trajectory) for trajectory in trajectories])
    for trajectory, terms in zip(trajectories, np.split(kl, ends[:-1]), strict=True):
        trajectory.charge(terms)


class Stretch(NamedTuple):
    """Consecutive actions of one episode."""

    episode: Hashable  # the episode's name
    trajectory: Trajectory
    over: bool  # whether the episode ends here, or a time limit cuts it off


class KLAccounts:
    """Puts the stretches of episodes together, and charges them where the environment has not.

    penalty: scores them, and adapts its coefficient to what they cost. deferred: whether the environment's `kl_mode` is
    "deferred", so that the KL is charged here.
    """

    def __init__(self, penalty: KLPenalty, *, deferred: bool):
        self.penalty, self.deferred = penalty, deferred
        self._open: dict[Hashable, tuple[Trajectory, int]] = {}  # episode -> what there is of it, last settlement
        self._settlements = 0

    def coef(self, episode: Hashable) -> float:
        """The KL coefficient of an episode: the one in force when its first stretch was charged."""
        return self._open[episode][0].kl_coef if episode in self._open else self.penalty.coef

    def charge(self, stretches: Sequence[Stretch], packed: PackedEpisodes, policy: Sampler | None = None) -> None:
        """Take the KL of stretches off their rewards, at the `kl_coef` of each; where the environment has not done so.

        packed: their actions, in their order. policy: what sampled them; needed by the "full" estimator alone.
        """
        if self.deferred:
            charge_kl([stretch.trajectory for stretch in stretches], self.penalty, policy, packed=packed)

    def settle(self, stretches: Sequence[Stretch]) -> list[Trajectory]:
        """Add stretches to their episodes, in the order given; returns the whole episodes that are over.

        The coefficient then adapts to those that have terminated. One that a time limit cut off does not count.
        """
        self._settlements += 1
        over = []
        for episode, trajectory, ends in stretches:
            before = self._open.pop(episode, None)
            whole = trajectory if before is None else before[0].extended(trajectory)
            if ends:
                over.append(whole)
            else:
                self._open[episode] = whole, self._settlements
        kl_sums = [trajectory.kl_sum for trajectory in over if trajectory.finish_reason]
        if self.deferred and kl_sums:
            self.penalty.update(float(np.mean(kl_sums)), len(kl_sums))
        forgotten = self._settlements - FORGET_AFTER
        self._open = {episode: entry for episode, entry in self._open.items() if entry[1] > forgotten}
        return over

    def state_dict(self) -> dict[str, Any]:
        """The open episodes and the coefficient: arrays, numbers and text."""
        entries = [{"episode": name, "seen": seen, **asdict(whole)} for name, (whole, seen) in self._open.items()]
        return {"open": entries, "settlements": self._settlements, "kl_coef": self.penalty.coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._open = {}
        for entry in state["open"]:
            fields = dict(entry)
            episode, seen = fields.pop("episode"), fields.pop("seen")
            self._open[episode] = Trajectory(**fields), seen
        self._settlements = int(state["settlements"])
        self.penalty.controller.value = float(state["kl_coef"])
