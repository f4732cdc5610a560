"""From texts to the rows that are trained on and those held out: scored, told apart by the threshold, and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from textrl_agents.pretraining.control_tokens import ControlTokens
from textrl_agents.pretraining.documents.scores import ScoredDocument
from textrl_agents.pretraining.documents.thresholds import threshold_of
from textrl_agents.pretraining.objectives import OBJECTIVES
from textrl_agents.pretraining.rows import DocumentEncoder, EncodedDocuments, Markers
from textrl_agents.pretraining.settings import PretrainSettings
from textrl_env.text.prompt_splits import split_places


class Corpus(NamedTuple):
    """Scored documents. threshold: from which one of them, or a piece, is good; None where nothing tells them apart.

    kept: of the training documents, those that are trained on, which filtering makes fewer.
    of_pieces: whether `threshold` is one of pieces, and so says of each whether it is good.
    """

    kept: list[ScoredDocument]
    heldout: list[ScoredDocument]
    threshold: float | None
    of_pieces: bool
    documents: int
    good_share: float | None  # of what the threshold tells apart


class EncodedCorpus(NamedTuple):
    """The rows of a corpus."""

    train: EncodedDocuments
    heldout: EncodedDocuments


def divide(documents: Sequence[ScoredDocument], settings: PretrainSettings) -> Corpus:
    """Hold documents out, find the threshold, and filter where the objective does.

    Equal documents stand on one side. Raises ConfigError where the objective tells good from bad, or weighs by scores,
    and the scores do not differ.
    """
    train, heldout = list(documents), list[ScoredDocument]()
    if settings.heldout_share:
        places = split_places(["".join(each.segments) for each in documents], {"heldout": settings.heldout_share})
        train, heldout = ([documents[place] for place in places[split]] for split in ("train", "heldout"))
    objective = OBJECTIVES[settings.objective]
    scores = [score for document in train for score in document.scores]
    how: dict[str, Any] = {"threshold": settings.threshold, "quantile": settings.quantile}
    if objective.threshold == "documents":
        means = [document.mean for document in train]
        threshold = threshold_of(means, scored="documents", **how)
        kept = [document for document in train if document.mean >= threshold]
        return Corpus(kept, heldout, threshold, False, len(train), len(kept) / len(train))
    if not objective.by_score and min(scores) == max(scores):
        return Corpus(train, heldout, None, False, len(train), None)
    threshold = threshold_of(scores, scored=f"pieces ({settings.segment}s)", **how)
    share = sum(score >= threshold for score in scores) / len(scores)
    return Corpus(train, heldout, threshold, True, len(train), share)


def encode_training(
    corpus: Corpus, settings: PretrainSettings, tokenizer: Any, *, max_length: int, control: ControlTokens | None
) -> EncodedDocuments:
    """Encode what is trained on, with control tokens where there are any."""
    markers = None if control is None else Markers(control, settings.unmarked, Random(settings.seed))
    encoder = DocumentEncoder(tokenizer, max_length=max_length, without=control or ())
    return encoder.encode(corpus.kept, threshold=corpus.threshold if corpus.of_pieces else None, markers=markers)


def encode_heldout(corpus: Corpus, tokenizer: Any, *, max_length: int) -> EncodedDocuments:
    """Encode what is held out as the model samples: behind what its tokenizer puts in front, and nothing between."""
    threshold = corpus.threshold if corpus.of_pieces else None
    return DocumentEncoder(tokenizer, max_length=max_length).encode(corpus.heldout, threshold=threshold)
