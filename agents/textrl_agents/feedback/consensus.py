"""What annotators together say of each pair, and how good each of them is, by three methods.

majority_vote: what most say. dawid_skene: votes weighted by each annotator's confusion matrix, found by EM (Dawid &
Skene 1979). noisy_bradley_terry: each annotator follows the responses' quality with some probability and else a side of
the page (Chen et al. 2013, "Pairwise Ranking Aggregation in a Crowdsourced Setting").
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from crowdkit.aggregation import DawidSkene

from textrl_agents.feedback.noisy_bradley_terry import fit_noisy_bradley_terry
from textrl_agents.feedback.votes import TIE, Votes
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.preferences.records import Comparison

EM_STEPS = 100


@dataclass(frozen=True)
class Consensus:
    """labels: int [pairs], 0, 1 or TIE. probability: float [pairs], of that label under the method.

    quality: float [annotators], None where the method knows none. Dawid-Skene: the probability that a vote is right;
    noisy Bradley-Terry: that it follows the responses and not a side.
    """

    labels: np.ndarray
    probability: np.ndarray
    quality: np.ndarray | None = None


def majority_vote(votes: Votes) -> Consensus:
    """What most annotators say; a tie where two labels have as many votes."""
    counts = np.zeros((len(votes.pairs), TIE + 1))
    np.add.at(counts, (votes.pair, votes.label), 1)
    return _labelled(counts / counts.sum(axis=1, keepdims=True))


def dawid_skene(votes: Votes) -> Consensus:
    """Labels and annotators' quality by Dawid and Skene's model. Raises ConfigError where no pair has two votes.

    Which response of a pair comes first is arbitrary, and in imported data it is the one that the first vote chose. So
    each pair is fitted in both orders: else that annotator's votes would all be for response 0, and tell nothing.
    """
    _check_overlap(votes, "dawid_skene")
    frame = pd.DataFrame({
        "task": np.concatenate([votes.pair, votes.pair + len(votes.pairs)]),
        "worker": np.tile(votes.annotator, 2),
        "label": np.concatenate([votes.label, np.array([1, 0, TIE])[votes.label]]),
    })  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # crowd-kit is older than pandas 3
        fitted = DawidSkene(EM_STEPS).fit(frame)
    assert fitted.probas_ is not None  # all three are there after `fit`
    assert fitted.priors_ is not None
    assert fitted.errors_ is not None
    probabilities = fitted.probas_.reindex(index=range(len(votes.pairs)), columns=range(TIE + 1)).fillna(0.0)
    quality = np.zeros(len(votes.annotators))
    for (annotator, label), given_truth in fitted.errors_.iterrows():  # [true labels]
        quality[annotator] += fitted.priors_.get(label, 0.0) * given_truth.get(label, 0.0)
    return dataclasses.replace(_labelled(probabilities.to_numpy(dtype=np.float64)), quality=quality)


def noisy_bradley_terry(votes: Votes) -> Consensus:
    """Labels and annotators' quality by the noisy Bradley-Terry model; ties are left out of the fit.

    Raises ConfigError where no pair has two votes.
    """
    _check_overlap(votes, "noisy_bradley_terry")
    fitted = fit_noisy_bradley_terry(votes)
    first = np.stack([fitted.first, 1 - fitted.first, np.zeros(len(fitted.first))], axis=1)
    return dataclasses.replace(_labelled(first), quality=fitted.skill)


METHODS: dict[str, Callable[[Votes], Consensus]] = {
    "majority_vote": majority_vote,
    "dawid_skene": dawid_skene,
    "noisy_bradley_terry": noisy_bradley_terry,
}


def consensus_comparisons(votes: Votes, method: str) -> Iterator[Comparison]:
    """One comparison for each pair, with the method's label and its name as the annotator.

    Raises UnknownName, and ConfigError where there are too few votes for the method.
    """
    if method not in METHODS:
        raise UnknownName("consensus method", method, METHODS)
    if not len(votes):
        raise ConfigError("there is no comparison to find a consensus of; a store holds some after annotators voted")
    found = METHODS[method](votes)
    return (
        dataclasses.replace(
            pair,
            preferred=None if label == TIE else int(label),
            annotator=f"consensus: {method}",
            order=None,
            duration=None,
            margin=None,
            comment=None,
        )
        for pair, label in zip(votes.pairs, found.labels, strict=True)
    )


def _check_overlap(votes: Votes, method: str) -> None:
    if not len(votes) or votes.votes_of_pair.max() < 2:
        raise ConfigError(
            f"{method} needs pairs that two or more annotators judged, and there is none; "
            "show questions to several annotators, or take majority_vote"
        )


def _labelled(probabilities: np.ndarray) -> Consensus:
    best = probabilities.max(axis=1)
    undecided = np.isclose(probabilities, best[:, None], rtol=0, atol=1e-9).sum(axis=1) > 1
    return Consensus(np.where(undecided, TIE, probabilities.argmax(axis=1)), best)
