"""Which episode each stretch of a rollout belongs to, and what its KL costs.

In `deferred` mode the environment pays the score alone. The ledger charges the KL after the rollout: it asks the
environment's `KLPenalty` for whole episodes at once, subtracts `kl_coef * kl` from each transition's reward, and
writes the sum back into the episode's record, so that the return that is logged is the return that is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from textrl_env.errors import ConfigError
from textrl_env.mdp import Episode
from textrl_env.models import CausalLM, PackedEpisodes

if TYPE_CHECKING:
    from textrl_agents.sb3.vec_env import EndedRow, TextVecEnv


class EpisodeLedger:
    """Follows the episodes of a TextVecEnv over rollouts that may cut them anywhere."""

    def __init__(self, env: TextVecEnv):
        self.env: TextVecEnv | None = env
        self.policy: CausalLM | None = None  # needed by the "full" estimator alone
        self._resets = env.resets
        self.open_kl = np.zeros(env.num_envs)
        self.open_entropy = np.zeros(env.num_envs)

    def start(self) -> None:
        """Begin a rollout: forget what a reset of the environment, or a rollout that was broken off, left behind."""
        if self.env is None:
            return
        self.env.drain_finished()
        if self.env.resets != self._resets:
            self._resets = self.env.resets
            self.open_kl[:] = self.open_entropy[:] = 0.0

    def settle(
        self, packed: PackedEpisodes, log_probs: torch.Tensor, stretches: list[tuple[int, bool]]
    ) -> tuple[np.ndarray | None, list[Episode], list[float]]:
        """Account for one rollout.

        log_probs: [M], the policy's when it acted, in packed order.
        stretches: for each packed sequence its row and whether its episode ended here; in time order for each row.
        Returns the cost of each transition ([M], `kl_coef * kl`; None where the environment has paid already), the
        finished episodes, and their summed surprisals `-log pi`, whose mean estimates the entropy of a response. An
        episode that a time limit cut off is charged too, and is not among them: it has no score.
        """
        if self.env is None:
            raise ConfigError(
                "this rollout buffer is not bound to an environment (it was loaded from a file): "
                "call agent.rollout_buffer.bind(agent.env, agent.policy)"
            )
        over: dict[int, list[EndedRow]] = {}
        for each in self.env.drain_finished():
            over.setdefault(each.row, []).append(each)
        penalty = self.env.env.kl_penalty
        deferred = self.env.env.rules.kl_mode == "deferred"
        kl = None
        if deferred:
            kl = penalty(packed, log_probs, self.policy).kl.double().cpu().numpy()
        bounds = np.flatnonzero(np.diff(packed.rows.cpu().numpy(), prepend=-1))
        entropy_sums = np.add.reduceat(-log_probs.double().cpu().numpy(), bounds)
        kl_sums = np.add.reduceat(kl, bounds) if kl is not None else np.zeros(len(bounds))
        coefs = np.zeros(len(bounds))
        current = self.env.env.kl_coefs
        episodes: list[Episode] = []
        entropies: list[float] = []
        for index, (row, ended) in enumerate(stretches):
            self.open_kl[row] += kl_sums[index]
            self.open_entropy[row] += entropy_sums[index]
            if not ended:
                coefs[index] = current[row]
                continue
            ended_row = over[row].pop(0)
            coefs[index] = ended_row.kl_coef
            if deferred:
                ended_row.charge(float(self.open_kl[row]))
            if ended_row.episode is not None:
                episodes.append(ended_row.episode)
                entropies.append(float(self.open_entropy[row]))
            self.open_kl[row] = self.open_entropy[row] = 0.0
        if deferred and episodes:
            penalty.update(float(np.mean([episode.kl_sum for episode in episodes])), len(episodes))
        counts = np.diff(np.append(bounds, len(packed)))
        return (np.repeat(coefs, counts) * kl if kl is not None else None), episodes, entropies

    def __getstate__(self) -> dict[str, Any]:
        # SB3 pickles a buffer's arguments into its zip file; environments and models do not belong there.
        return {"env": None, "policy": None, "_resets": -1, "open_kl": self.open_kl, "open_entropy": self.open_entropy}
