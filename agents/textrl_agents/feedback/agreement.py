"""How far annotators agree: Krippendorff's alpha, and the share of others' votes that are the same.

Alpha is 1 for perfect agreement and 0 for what chance gives (Krippendorff 2019, "Content Analysis", chapter 12).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import krippendorff
import numpy as np

from textrl_agents.feedback.votes import TIE, Votes
from textrl_env.preferences.records import RATINGS, Rating


@dataclass(frozen=True)
class Alpha:
    """value: None where it has none, and `why` says the reason. items: those that two or more annotators judged."""

    value: float | None
    items: int
    why: str = ""


def alpha_of_votes(votes: Votes) -> Alpha:
    """Alpha of comparisons, nominal: the first response, the second or a tie.

    Which response of a pair comes first is arbitrary, and in imported data often the chosen one. So each pair counts in
    both orders, which makes alpha the same however they are ordered.
    """
    counts = np.zeros((len(votes.pairs), TIE + 1))
    np.add.at(counts, (votes.pair, votes.label), 1)
    return _alpha(np.concatenate([counts, counts[:, [1, 0, TIE]]]), "nominal", copies=2)


def alpha_of_ratings(ratings: Iterable[Rating]) -> dict[str, Alpha]:
    """Alpha of each attribute, ordinal. An item is a prompt with a response; an annotator's last rating counts."""
    values: dict[str, dict[tuple[str, str], dict[object, int]]] = {}
    for number, rating in enumerate(ratings):
        item = (str(rating.prompt), rating.candidates[0].text)
        who = rating.annotator or number  # those without one may be of different people
        for attribute, value in rating.ratings.items():
            values.setdefault(attribute, {}).setdefault(item, {})[who] = value
    return {attribute: _alpha(_rating_counts(items), "ordinal") for attribute, items in sorted(values.items())}


def _rating_counts(items: Mapping[tuple[str, str], Mapping[object, int]]) -> np.ndarray:
    counts = np.zeros((len(items), len(RATINGS)))
    for row, given in enumerate(items.values()):
        for value in given.values():
            counts[row, RATINGS.index(value)] += 1
    return counts


def _alpha(counts: np.ndarray, level: Literal["nominal", "ordinal"], copies: int = 1) -> Alpha:
    """counts: [items, values]. copies: how often each item is among them."""
    shared = counts[counts.sum(axis=1) >= 2]
    items = len(shared) // copies
    if not items:
        return Alpha(None, 0, "no item was judged by two or more annotators")
    if np.count_nonzero(shared.sum(axis=0)) < 2:
        return Alpha(None, items, "all judgements are the same, so chance would agree as well")
    return Alpha(float(krippendorff.alpha(value_counts=shared, level_of_measurement=level)), items)


def agreement_with_others(votes: Votes) -> np.ndarray:
    """The share of others' votes on the same pairs that equal an annotator's own, float [annotators]; NaN without any.

    Each of an annotator's votes on a pair that others judged counts alike.
    """
    counts = np.zeros((len(votes.pairs), TIE + 1))
    np.add.at(counts, (votes.pair, votes.label), 1)
    others = votes.votes_of_pair[votes.pair] - 1
    same = counts[votes.pair, votes.label] - 1
    shared = others > 0
    total = np.bincount(votes.annotator[shared], same[shared] / others[shared], minlength=len(votes.annotators))
    judged = np.bincount(votes.annotator[shared], minlength=len(votes.annotators))
    shares: np.ndarray = np.divide(total, judged, out=np.full(len(total), np.nan), where=judged > 0)
    return shares
