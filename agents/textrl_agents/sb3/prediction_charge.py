"""The deferred KL of episodes that `agent.predict` plays, charged at their end: what `evaluate_policy` then reports.

A rollout's KL is charged by the rollout buffer. Nothing follows an evaluation, so the environment charges its episodes
itself: each one's last reward pays for all of its tokens, and its return is `score - kl_coef * kl_sum`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from textrl_agents.evaluation import response_kls
from textrl_agents.sb3.sampled_tokens import SampledTokens
from textrl_env import TextGenVectorEnv
from textrl_env.errors import MissingLogProb
from textrl_env.mdp import Episode


class PredictionCharge:
    """Follows the log-probabilities of predicted tokens, one list a row."""

    def __init__(self, env: TextGenVectorEnv):
        self.env = env
        self._log_probs: list[list[float]] = [[] for _ in range(env.num_envs)]

    def clear(self) -> None:
        """Forget the episodes in flight: they were dropped, or an action came that nobody knows the log-prob of."""
        for row in self._log_probs:
            row.clear()

    def costs(
        self, tokens: SampledTokens, episodes: list[tuple[int, Episode]], final_observations: Sequence[np.ndarray]
    ) -> np.ndarray:
        """What the rows pay at this step, float64 [N]: `kl_coef * kl_sum` where an episode ends, as its record says.

        Raises MissingLogProb for an episode that began with other actions.
        """
        for so_far, log_prob in zip(self._log_probs, tokens.log_probs.tolist(), strict=True):
            so_far.append(log_prob)
        costs = np.zeros(self.env.num_envs)
        if not episodes:
            return costs
        known = []
        for row, episode in episodes:
            known.append(list(self._log_probs[row]))
            self._log_probs[row].clear()
            if len(known[-1]) != len(episode.response_ids):
                raise MissingLogProb(
                    f"the episode in row {row} has {len(episode.response_ids)} tokens, of which agent.predict drew the "
                    f"last {len(known[-1])}: the KL of the others is unknown. Reset the environment before evaluating."
                )
        whole = [final_observations[row] for row, _ in episodes]
        prompts = [
            ids[ids >= 0][: -len(episode.response_ids)] for ids, (_, episode) in zip(whole, episodes, strict=True)
        ]
        kls = response_kls(
            tokens.policy.actor_critic,
            self.env,
            prompts,
            [episode.response_ids for _, episode in episodes],
            torch.tensor(list(itertools.chain(*known))),
        )
        for (row, episode), kl in zip(episodes, kls.tolist(), strict=True):
            costs[row] = episode.kl_coef * kl
            episode.kl_sum = kl
            episode.statistics["r"] -= episode.kl_coef * kl
        return costs
