"""Which episode each stretch of a rollout belongs to, and what its KL costs.

In `deferred` mode the environment pays the score alone. The ledger charges the KL after the rollout: it asks the
environment's `KLPenalty` for whole episodes at once, subtracts `kl_coef * kl` from each transition's reward, and
writes the sum back into the episode's record, so that the return that is logged is the return that is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from textrl_agents.sb3.buffers.sampled_tokens import SampledTokens
from textrl_env.models import CausalLMActorCritic, PackedEpisodes
from textrl_env.trajectory import Trajectory

if TYPE_CHECKING:
    from textrl_agents.sb3.buffers.ended_row import EndedRow
    from textrl_agents.sb3.vec_env import TextVecEnv


class EpisodeLedger:
    """Follows the episodes of a TextVecEnv's rows over rollouts that may cut them anywhere."""

    def __init__(self, num_rows: int):
        self.open_kl = np.zeros(num_rows)  # of each row's episode in flight, over the rollouts so far
        self.open_entropy = np.zeros(num_rows)
        self.env: TextVecEnv | None = None
        self._resets = 0  # of `env` when it was last seen
        self._over: dict[int, list[EndedRow]] = {}  # row -> its episodes that are over, of this rollout

    def state_dict(self) -> dict[str, Any]:
        """The sums over the episodes that go on."""
        return {"kl": self.open_kl.copy(), "entropy": self.open_entropy.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in the environment that `start` was told of."""
        self.open_kl[...], self.open_entropy[...] = state["kl"], state["entropy"]

    def start(self, env: TextVecEnv) -> bool:
        """Begin a rollout in `env`; whether it goes on with the episodes of the last one.

        It does not after a reset, nor in another environment. What was open is then forgotten.
        """
        goes_on = self.env is env and self._resets == env.resets
        self.env, self._resets = env, env.resets
        self._over = {}
        if not goes_on:
            self.open_kl[:] = self.open_entropy[:] = 0.0
        return goes_on

    def follow(self, tokens: SampledTokens) -> None:
        """Take note of the episodes that a step ended."""
        for over in tokens.ended:
            self._over.setdefault(over.row, []).append(over)

    def settle(
        self,
        packed: PackedEpisodes,
        log_probs: torch.Tensor,
        stretches: list[tuple[int, bool]],
        policy: CausalLMActorCritic | None,
    ) -> tuple[np.ndarray | None, list[Trajectory], list[float]]:
        """Account for one rollout.

        log_probs: [M], the policy's when it acted, in packed order.
        policy: the model that sampled; needed by the "full" estimator alone.
        stretches: for each packed sequence its row and whether its episode ended here; in time order for each row.
        Returns the cost of each transition ([M], `kl_coef * kl`; None where the environment has paid already), the
        finished episodes, and their summed surprisals `-log pi`, whose mean estimates the entropy of a response. An
        episode that a time limit cut off is charged too, and is not among them: it has no score.
        """
        assert self.env is not None  # started
        penalty = self.env.env.kl_penalty
        deferred = self.env.env.rules.kl_mode == "deferred"
        kl = None
        if deferred:
            kl = penalty(packed, log_probs, policy).kl.double().cpu().numpy()
        bounds = np.flatnonzero(np.diff(packed.rows.cpu().numpy(), prepend=-1))
        entropy_sums = np.add.reduceat(-log_probs.double().cpu().numpy(), bounds)
        kl_sums = np.add.reduceat(kl, bounds) if kl is not None else np.zeros(len(bounds))
        coefs = np.zeros(len(bounds))
        current = self.env.env.kl_coefs
        episodes: list[Trajectory] = []
        entropies: list[float] = []
        for index, (row, ended) in enumerate(stretches):
            self.open_kl[row] += kl_sums[index]
            self.open_entropy[row] += entropy_sums[index]
            if not ended:
                coefs[index] = current[row]
                continue
            over = self._over[row].pop(0)
            coefs[index] = over.kl_coef
            if deferred:
                over.charge(float(self.open_kl[row]))
            if over.episode is not None:
                episodes.append(over.episode)
                entropies.append(float(self.open_entropy[row]))
            self.open_kl[row] = self.open_entropy[row] = 0.0
        if deferred and episodes:
            penalty.update(float(np.mean([episode.kl_sum for episode in episodes])), len(episodes))
        counts = np.diff(np.append(bounds, len(packed)))
        return (np.repeat(coefs, counts) * kl if kl is not None else None), episodes, entropies
