"""The deferred KL of episodes that `agent.predict` plays, charged at their end: what `evaluate_policy` then reports.

A rollout's KL is charged by the rollout buffer. Nothing follows an evaluation, so the environment charges its episodes
itself: each one's last reward pays for all of its tokens, and its return is `score - kl_coef * kl_sum`.
"""

from __future__ import annotations

import numpy as np

from textrl_agents.sb3.buffers.ended_row import EndedRow
from textrl_agents.sb3.buffers.sampled_tokens import SampledTokens
from textrl_env import TextGenVectorEnv
from textrl_env.accounts import charge_kl
from textrl_env.errors import MissingLogProb


class PredictionCharge:
    """Follows the log-probabilities of predicted tokens, one list a row."""

    def __init__(self, env: TextGenVectorEnv):
        self.env = env
        self._log_probs: list[list[float]] = [[] for _ in range(env.num_envs)]

    def clear(self) -> None:
        """Forget the episodes in flight: they were dropped, or an action came that nobody knows the log-prob of."""
        for row in self._log_probs:
            row.clear()

    def costs(self, tokens: SampledTokens, ended: list[EndedRow]) -> np.ndarray:
        """What the rows pay at this step, float64 [N]: `kl_coef * kl_sum` where an episode is over.

        Its record and its info then say so too. Raises MissingLogProb for an episode that began with other actions.
        """
        for so_far, log_prob in zip(self._log_probs, tokens.log_probs.tolist(), strict=True):
            so_far.append(log_prob)
        costs = np.zeros(self.env.num_envs)
        for row, episode, _ in ended:
            log_probs = self._log_probs[row]
            if len(log_probs) != len(episode):
                raise MissingLogProb(
                    f"the episode in row {row} has {len(episode)} tokens, of which agent.predict drew the last "
                    f"{len(log_probs)}: the KL of the others is unknown. Reset the environment before evaluating."
                )
            episode.log_probs = np.array(log_probs)
            log_probs.clear()
        charge_kl([over.episode for over in ended], self.env.kl_penalty, tokens.policy.actor_critic)
        for over in ended:
            kl_sum = over.episode.kl_sum
            costs[over.row] = over.episode.kl_coef * kl_sum
            over.report(kl_sum)
        return costs
