"""Comparisons as votes: who judged which pair of responses how, in arrays that statistics are made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from textrl_env.preferences.records import Comparison

TIE = 2
"""The label of a tie, beside 0 and 1, the index of the response that was preferred."""
UNKNOWN = -1


@dataclass(frozen=True)
class Votes:
    """n votes of annotators on pairs; comparisons that were skipped are not among them.

    pairs: the first comparison of each pair, whose candidates are responses 0 and 1. annotators: their pseudonyms;
    votes without one count as those of "(unknown)". pair, annotator: int [n], indices of these. label: int [n], 0, 1
    or TIE. left: int [n], which response was shown on the left, UNKNOWN where nobody noted it. doubled: how many votes
    were left out because their annotator judged the same pair again later.
    """

    pairs: list[Comparison]
    annotators: list[str]
    pair: np.ndarray
    annotator: np.ndarray
    label: np.ndarray
    left: np.ndarray
    doubled: int

    NOBODY = "(unknown)"

    @classmethod
    def of(cls, comparisons: Iterable[Comparison]) -> Votes:
        """The votes of comparisons. A pair is the same prompt with the same two responses, whichever comes first."""
        pairs: dict[tuple[str, frozenset[str]], tuple[int, Comparison]] = {}
        annotators: dict[str, int] = {}
        votes: dict[tuple[int, int] | tuple[int, int, int], tuple[int, int, int, int]] = {}
        count = 0
        for record in comparisons:
            if record.skipped:
                continue
            count += 1
            key = (json.dumps(record.prompt), frozenset(each.text for each in record.candidates))
            pair, first = pairs.setdefault(key, (len(pairs), record))
            annotator = annotators.setdefault(record.annotator or cls.NOBODY, len(annotators))
            swapped = int(record.candidates[0].text != first.candidates[0].text)
            label = TIE if record.preferred is None else record.preferred ^ swapped
            left = UNKNOWN if record.order is None else record.order[0] ^ swapped
            # Of one annotator the last vote on a pair counts; votes without an annotator may be of different people.
            place = (pair, annotator) if record.annotator else (pair, annotator, count)
            votes[place] = (pair, annotator, label, left)
        columns = list(zip(*votes.values(), strict=True)) or [()] * 4
        pair_of, annotator_of, label_of, left_of = (np.array(column, dtype=np.int64) for column in columns)
        firsts = [first for _, first in pairs.values()]
        doubled = count - len(votes)
        return cls(firsts, list(annotators), pair_of, annotator_of, label_of, left_of, doubled)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def votes_of_pair(self) -> np.ndarray:
        """How many votes each pair has, int [pairs]."""
        return np.bincount(self.pair, minlength=len(self.pairs))

    @property
    def longer(self) -> np.ndarray:
        """Which response of each pair has more characters, int [pairs]; UNKNOWN where both have as many."""
        lengths = np.array([[len(each.text) for each in pair.candidates] for pair in self.pairs]).reshape(-1, 2)
        return np.where(lengths[:, 0] == lengths[:, 1], UNKNOWN, lengths.argmax(axis=1))

    def only(self, chosen: np.ndarray) -> Votes:
        """The votes of a mask, bool [n], of the same pairs and annotators."""
        names = ("pair", "annotator", "label", "left")
        return dataclasses.replace(self, **{name: getattr(self, name)[chosen] for name in names})
