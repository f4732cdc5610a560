"""The noisy Bradley-Terry model of Chen et al. 2013, fitted to votes on pairs.

An annotator k follows the responses with probability s_k, and else takes the left side with probability b_k:
P(k prefers response 0 to 1) = s_k sigmoid(d) + (1 - s_k) (b_k where 0 is on the left, else 1 - b_k). The difference d
of a pair is normal with mean 0. Where a pair has few votes its difference cannot be estimated, so it is integrated out
by Gauss-Hermite quadrature, and skills, sides and the spread of d maximize what is left, with weak normal priors.

crowd-kit has the model too, but the gradient of its version 1.4 is written to the place of another annotator: skills
end near where they began.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from textrl_agents.feedback.votes import TIE, UNKNOWN, Votes

NODES = 16  # an even number, so that none is at d = 0
# Priors of the logits of skills and sides, and of the logarithm of the spread of d: (mean, standard deviation).
SKILL, SIDE, LOG_SPREAD = (1.0, 2.0), (0.0, 1.0), (1.0, 1.0)


class Fitted(NamedTuple):
    """first: float [pairs], the probability that response 0 is better. skill, left: float [annotators], in (0, 1)."""

    first: np.ndarray
    skill: np.ndarray
    left: np.ndarray


def fit_noisy_bradley_terry(votes: Votes) -> Fitted:
    """Fit the model to all votes but ties. Where the side is not known, both are as likely."""
    decided = votes.only(votes.label != TIE)
    likelihood = _MarginalLikelihood(decided)
    count = len(votes.annotators)
    mean = np.array([*[SKILL[0]] * count, *[SIDE[0]] * count, LOG_SPREAD[0]])
    width = np.array([*[SKILL[1]] * count, *[SIDE[1]] * count, LOG_SPREAD[1]])

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient, _ = likelihood(x)
        centred = (x - mean) / width
        return float((centred**2).sum() / 2 - value), centred / width - gradient

    found = minimize(loss, mean, jac=True, method="L-BFGS-B").x
    *_, first = likelihood(found)
    return Fitted(first, expit(found[:count]), expit(found[count:-1]))


class _MarginalLikelihood:
    """The logarithm of the likelihood of votes without ties, at logits of skills and sides and the log spread of d."""

    def __init__(self, votes: Votes):
        self.pair, self.annotator = votes.pair, votes.annotator
        self.pairs, self.annotators = len(votes.pairs), len(votes.annotators)
        self.sign = np.where(votes.label == 0, 1.0, -1.0)
        self.side = np.where(votes.left == UNKNOWN, 0.0, np.where(votes.left == votes.label, 1.0, -1.0))
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self.nodes, self.log_weights = nodes, np.log(weights / weights.sum())

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the value, its gradient, and the probability that response 0 of each pair is better."""
        skill, left = x[: self.annotators][self.annotator], x[self.annotators : -1][self.annotator]
        difference = np.exp(x[-1]) * self.nodes
        follows, by_side = expit(skill)[:, None], expit(self.side * left)[:, None]  # [n, 1]
        by_quality = expit(self.sign[:, None] * difference)  # [n, NODES]
        vote = follows * by_quality + (1 - follows) * by_side
        joint = self.log_weights + self._by_pair(np.log(vote))  # [pairs, NODES]
        evidence = logsumexp(joint, axis=1)
        posterior = np.exp(joint - evidence[:, None])
        share = posterior[self.pair] / vote  # [n, NODES], of each node in the slope of a vote
        slopes = (
            self._by_annotator((share * (by_quality - by_side)).sum(axis=1) * (follows * (1 - follows))[:, 0]),
            self._by_annotator(share.sum(axis=1) * ((1 - follows) * by_side * (1 - by_side))[:, 0] * self.side),
            [np.sum(share * follows * by_quality * (1 - by_quality) * self.sign[:, None] * difference)],
        )
        return float(evidence.sum()), np.concatenate(slopes), posterior[:, self.nodes > 0].sum(axis=1)

    def _by_pair(self, values: np.ndarray) -> np.ndarray:
        """Sum [n, NODES] over the votes of each pair."""
        columns = [np.bincount(self.pair, column, minlength=self.pairs) for column in values.T]
        return np.stack(columns, axis=1)

    def _by_annotator(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.annotator, values, minlength=self.annotators)
