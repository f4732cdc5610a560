"""How often the left response, or the longer one, is preferred, with an interval by a bootstrap over pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from textrl_agents.feedback.votes import TIE, UNKNOWN, Votes

REPETITIONS = 2000
_BATCH_VALUES = 2_000_000  # values held at a time: 16 MB


@dataclass(frozen=True)
class Share:
    """value: a share of `votes` votes, and the 95% interval from low to high; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    votes: int

    @property
    def differs_from_half(self) -> bool:
        """Whether the interval leaves 0.5 out."""
        return self.low is not None and self.high is not None and not self.low <= 0.5 <= self.high


def share_of_left(votes: Votes, rng: np.random.Generator) -> Share:
    """The share of votes for the response on the left, of those that are no tie and whose order was noted."""
    return _share(votes, votes.left, rng)


def share_of_longer(votes: Votes, rng: np.random.Generator) -> Share:
    """The share of votes for the response with more characters, of those that are no tie, where one has more."""
    return _share(votes, votes.longer[votes.pair] if len(votes) else votes.left, rng)


def _share(votes: Votes, side: np.ndarray, rng: np.random.Generator) -> Share:
    """The share of votes for the response that `side`, int [n], names.

    Votes on one pair are alike, so the bootstrap draws pairs with all their votes. Two imagined pairs for each side are
    drawn along (Agresti & Coull 1998): else a few votes that are all alike would leave no doubt. With fewer than two
    pairs there is no interval.
    """
    counted = (side != UNKNOWN) & (votes.label != TIE)
    total = int(counted.sum())
    if not total:
        return Share(None, None, None, 0)
    is_side = votes.label[counted] == side[counted]
    _, pair = np.unique(votes.pair[counted], return_inverse=True)
    hits, counts = np.bincount(pair, is_side), np.bincount(pair)
    if len(counts) < 2:
        return Share(float(is_side.mean()), None, None, total)
    typical = counts.mean()
    hits, counts = np.append(hits, [0, 0, typical, typical]), np.append(counts, [typical] * 4)
    batch = max(1, _BATCH_VALUES // len(counts))
    drawn = []
    for start in range(0, REPETITIONS, batch):
        places = rng.integers(len(counts), size=(min(batch, REPETITIONS - start), len(counts)))
        drawn.append(hits[places].sum(axis=1) / counts[places].sum(axis=1))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return Share(float(is_side.mean()), float(low), float(high), total)
