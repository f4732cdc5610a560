"""The deferred KL of episodes that `agent.predict` plays, charged at their end: what `evaluate_policy` then reports.

A rollout's KL is charged by the rollout buffer. Nothing follows an evaluation, so the environment charges its episodes
itself: each one's last reward pays for all of its tokens, and its return is `score - kl_coef * kl_sum`.
"""

from __future__ import annotations

import numpy as np
import torch

from textrl_agents.evaluation.fresh_samples import response_kls
from textrl_agents.sb3.buffers.ended_row import EndedRow
from textrl_agents.sb3.buffers.sampled_tokens import SampledTokens
from textrl_env import TextGenVectorEnv
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
        if not ended:
            return costs
        known: list[float] = []
        prompts, responses = [], []
        for over in ended:
            log_probs, length = self._log_probs[over.row], over.info["episode"]["l"]
            if len(log_probs) != length:
                raise MissingLogProb(
                    f"the episode in row {over.row} has {length} tokens, of which agent.predict drew the last "
                    f"{len(log_probs)}: the KL of the others is unknown. Reset the environment before evaluating."
                )
            ids = over.info["terminal_observation"]
            ids = ids[ids >= 0]
            prompts.append(ids[:-length])
            responses.append(ids[-length:])
            known += log_probs
            log_probs.clear()
        kls = response_kls(tokens.policy.actor_critic, self.env, prompts, responses, torch.tensor(known))
        for over, kl in zip(ended, kls.tolist(), strict=True):
            costs[over.row] = over.kl_coef * kl
            over.charge(kl)
        return costs
