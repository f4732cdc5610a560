"""Score the pieces of documents by a reward, each piece by itself.

A reward judges a completion of a prompt. Here the prompt is the empty text and the completion is the piece, without the
white space around it. So what a piece scores does not depend on its document (Korbak et al. 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textrl_agents.pretraining.documents.segments import cut
from textrl_env.errors import ConfigError, RewardError
from textrl_env.rewards import score_episodes

BATCH = 1024  # pieces of a call


@dataclass(frozen=True)
class ScoredDocument:
    """A document's pieces, which together are its text, and the score of each."""

    segments: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """What the document as a whole is filtered by: the mean of its pieces' scores."""
        return float(np.mean(self.scores))


def score_documents(
    texts: Sequence[str],
    reward: Any,
    segment: str,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ScoredDocument]:
    """Cut documents and score their pieces. Equal pieces are asked about once.

    reward: a `Reward`; None scores every piece 0. segment: what a document is cut into. progress: takes the pieces
    scored so far, and how many there are.

    Raises what `score_episodes` raises, with a hint that pieces of texts were scored.
    """
    documents = [tuple(cut(text, segment)) for text in texts]
    pieces = list(dict.fromkeys(piece.strip() for document in documents for piece in document))
    found: dict[str, float] = {}
    for start in range(0, len(pieces), BATCH):
        batch = pieces[start : start + BATCH]
        scores = [0.0] * len(batch) if reward is None else _asked(reward, batch, segment)
        found.update(zip(batch, scores, strict=True))
        progress(len(found), len(pieces))
    return [ScoredDocument(document, tuple(found[piece.strip()] for piece in document)) for document in documents]


def _asked(reward: Any, pieces: list[str], segment: str) -> list[float]:
    try:
        scores: list[float] = score_episodes(reward, [""] * len(pieces), pieces).scores.tolist()
    except (RewardError, ConfigError) as error:
        error.add_note(
            f"A reward to pretrain by has to score each {segment} by itself, with an empty prompt and no columns"
            + ("" if segment == "document" else "; segment 'document' asks it about whole documents")
        )
        raise
    return scores
