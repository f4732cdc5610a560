"""The six objectives of Korbak et al. 2023 (https://arxiv.org/abs/2302.08582), and what each of them needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Objective:
    """loss: a key of `losses.LOSSES`.

    threshold: what a threshold tells apart, "documents" or "pieces"; None where there is none.
    conditional: whether the text gets control tokens. has_values: whether a value head learns with it.
    alpha: its default; None where there is none. by_score: whether scores decide what is learned.
    """

    loss: str
    threshold: str | None = None
    conditional: bool = False
    has_values: bool = False
    alpha: float | None = None
    by_score: bool = True


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        # Imitate all text,
        "mle": Objective("mle", by_score=False),
        # or the documents that score well,
        "filter": Objective("mle", threshold="documents"),
        # or all text behind control tokens for good and bad.
        "conditional": Objective("mle", threshold="pieces", conditional=True),
        # Imitate the good pieces and avoid the bad ones.
        "unlikelihood": Objective("unlikelihood", threshold="pieces", alpha=1.0),
        # Imitate all text, weighted by its score, or by what that is above the expected.
        "rwr": Objective("rwr"),
        "awr": Objective("awr", has_values=True, alpha=0.5),
    }
)
