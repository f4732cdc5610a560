"""Scored documents as rows of ids, with the score of the piece that each token is in."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from textrl_agents.pretraining.control_tokens import ControlTokens, document_opening
from textrl_agents.pretraining.documents.scores import ScoredDocument
from textrl_agents.trl.rows import IGNORED
from textrl_env.text.tokenization import encode_continuation, encode_text


class PretrainingRow(NamedTuple):
    """A document of T ids, BOS first and EOS last.

    labels: the ids that are learned, else -100. scores: of the piece that each id is in. good: whether it reaches the
    threshold.
    """

    input_ids: list[int]
    labels: list[int]
    scores: list[float]
    good: list[bool]


class Markers(NamedTuple):
    """Where control tokens go: before every piece, but for a random `unmarked` share."""

    ids: ControlTokens
    unmarked: float
    rng: Random


class EncodedDocuments(NamedTuple):
    """The rows of all documents, and how many of them were cut at the longest length."""

    rows: list[PretrainingRow]
    truncated: int

    @property
    def tokens(self) -> int:
        """In all rows."""
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def scores(self) -> np.ndarray:
        """Of every token, float64 [tokens]."""
        return np.array([score for row in self.rows for score in row.scores])


class DocumentEncoder:
    """Encodes documents as the tokenizer now puts BOS and control tokens in front of a text.

    Each piece is encoded by itself, and control tokens that it spells are text. A document longer than `max_length`
    ids loses its end. without: ids that the tokenizer puts in front and that are to be left out.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, without: Collection[int] = ()):
        self._opening = [token for token in document_opening(tokenizer) if token not in without]
        self._eos = tokenizer.eos_token_id
        self._first = functools.cache(lambda text: encode_text(tokenizer, text))
        self._later = functools.cache(lambda text: encode_continuation(tokenizer, text))
        self._longest = max_length

    def encode(
        self, documents: Sequence[ScoredDocument], *, threshold: float | None, markers: Markers | None = None
    ) -> EncodedDocuments:
        """Encode documents. threshold: a piece that scores as much is good; None calls all good."""
        whole = [self._row(document, threshold, markers) for document in documents]
        end = self._longest
        rows = [
            PretrainingRow(row.input_ids[:end], row.labels[:end], row.scores[:end], row.good[:end]) for row in whole
        ]
        return EncodedDocuments(rows, sum(len(row.input_ids) > end for row in whole))

    def _row(self, document: ScoredDocument, threshold: float | None, markers: Markers | None) -> PretrainingRow:
        ids: list[int] = []
        scores: list[float] = []
        good: list[bool] = []
        last = len(document.segments) - 1
        for place, (piece, score) in enumerate(zip(document.segments, document.scores, strict=True)):
            is_good = threshold is None or score >= threshold
            added = [] if place else list(self._opening)
            if markers is not None and markers.rng.random() >= markers.unmarked:
                added.append(markers.ids.good if is_good else markers.ids.bad)
            added += self._later(piece) if place else self._first(piece)
            added += [self._eos] if place == last and self._eos is not None else []
            ids += added
            scores += [score] * len(added)
            good += [is_good] * len(added)
        opening = max(len(self._opening), 1)  # nothing stands before the first id to predict it from
        return PretrainingRow(ids, [*[IGNORED] * opening, *ids[opening:]], scores, good)


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows as a batch [B, T], padded at their ends with what is not learned."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows], dtype=dtype)

    ids = padded("input_ids", 0, torch.int64)
    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(longest) < lengths).long(),
        "labels": padded("labels", IGNORED, torch.int64),
        "scores": padded("scores", 0.0, torch.float32),
        "good": padded("good", True, torch.bool),
    }
