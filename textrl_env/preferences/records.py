"""What an annotator can say of responses to a prompt: a comparison, a ranking, a rating or an edit.

Records hold no name or address of a person: `annotator` is a pseudonym.

Judgement            prompt, candidates, annotator, created, duration, order, columns, comment
|-- Comparison       preferred, skipped, margin      of two candidates
|-- Ranking          ranks                           of two or more
|-- Rating           ratings                         of one
`-- Edit             edited                          of one
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.rewards.protocol import Text
from textrl_env.text.prompt_rows import check_row
from textrl_env.text.tokenization import check_text

RATINGS = range(1, 6)
"""The values of a rating: 1 is worst, 5 is best."""
_ADDRESS = re.compile(r"[^\s@]@[^\s@]+\.[^\s@]")  # of an e-mail


@dataclass(frozen=True)
class Candidate:
    """A response, and what made it.

    model: a name or folder; None where it is unknown or a person wrote it. sampling: temperature, seed and the like.
    """

    text: str
    model: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ConfigError(f"a response must be a text, got {shown(self.text)}")
        check_text(self.text, "a response")
        if self.model is not None and not isinstance(self.model, str):
            raise ConfigError(f"the model of a response must be a name, got {shown(self.model)}")
        if not isinstance(self.sampling, Mapping):
            raise ConfigError(f"sampling must be names with values, got {shown(self.sampling)}")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What all records have.

    prompt: a text, or a chat's messages up to the response. created: seconds since 1970, UTC.
    duration: seconds that the annotator took. order: the candidates' indices from left to right, as they were shown.
    columns: the prompt's other columns, such as its group. comment: the annotator's own words.

    Raises ConfigError where a field cannot be what it says.
    """

    prompt: Text
    candidates: tuple[Candidate, ...]
    annotator: str | None = None
    created: float = field(default_factory=time.time)
    duration: float | None = None
    order: tuple[int, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    comment: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        if not self.candidates or not all(isinstance(each, Candidate) for each in self.candidates):
            raise ConfigError(f"candidates must be one or more Candidate, got {shown(self.candidates)}")
        check_row(self.prompt, self.columns, "the prompt")
        check_pseudonym(self.annotator)
        if self.comment is not None:
            check_text(_text("comment", self.comment), "the comment")
        if self.order is not None:
            object.__setattr__(self, "order", tuple(self.order))
            if not all(map(_is_whole, self.order)) or sorted(self.order) != list(range(len(self.candidates))):
                raise ConfigError(f"order must hold each of the {len(self.candidates)} indices once, got {self.order}")
        for name in ("created", "duration"):
            value = getattr(self, name)
            if not (value is None and name == "duration") and not (_is_number(value) and value >= 0):
                raise ConfigError(f"{name} must be a number of seconds >= 0, got {shown(value)}")


def check_pseudonym(annotator: Any) -> None:
    """Raise ConfigError unless `annotator` is None or a text that is not empty and no e-mail address."""
    if annotator is None:
        return
    check_text(_text("annotator", annotator), "the annotator")
    if not annotator.strip() or _ADDRESS.search(annotator):
        raise ConfigError(
            f"annotator must be a pseudonym, such as 'a17', and no e-mail address, got {shown(annotator)}"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; an integer beyond the range of floats is none that anything could use."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a text, got {shown(value)}")
    return value


@dataclass(frozen=True, kw_only=True)
class Comparison(Judgement):
    """Which of two responses is better.

    preferred: 0 or 1; None for a tie, or where the annotator skipped it. margin: by how much it is better, > 0, on the
    scale of whoever gave it; None where nobody said.
    """

    preferred: int | None
    skipped: bool = False
    margin: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.candidates) != 2:
            raise ConfigError(f"a comparison has two candidates, got {len(self.candidates)}")
        if self.candidates[0].text == self.candidates[1].text:
            raise ConfigError(f"a comparison needs two different responses, got twice {shown(self.candidates[0].text)}")
        if self.preferred is not None and not (_is_whole(self.preferred) and self.preferred in (0, 1)):
            raise ConfigError(f"preferred must be 0, 1 or None (a tie), got {shown(self.preferred)}")
        if not isinstance(self.skipped, bool):
            raise ConfigError(f"skipped must be true or false, got {shown(self.skipped)}")
        if self.skipped and self.preferred is not None:
            raise ConfigError("a comparison that was skipped has no preferred response")
        if self.margin is not None and (self.preferred is None or not _is_number(self.margin) or self.margin <= 0):
            raise ConfigError(f"margin must be a number > 0 beside a preferred response, got {shown(self.margin)}")

    @property
    def is_tie(self) -> bool:
        """Whether the annotator found both equally good."""
        return self.preferred is None and not self.skipped

    @property
    def chosen(self) -> Candidate:
        """The better response. Raises ConfigError where there is none."""
        return self.candidates[self._preferred()]

    @property
    def rejected(self) -> Candidate:
        """The worse response. Raises ConfigError where there is none."""
        return self.candidates[1 - self._preferred()]

    def _preferred(self) -> int:
        if self.preferred is None:
            raise ConfigError("this comparison is a tie or was skipped: no response is the better one")
        return self.preferred


@dataclass(frozen=True, kw_only=True)
class Ranking(Judgement):
    """Several responses in order. ranks: one for each candidate, 1 is best; equal ranks are ties."""

    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ranks", tuple(self.ranks))
        count = len(self.candidates)
        if count < 2:
            raise ConfigError(f"a ranking has two or more candidates, got {count}")
        fits = all(_is_whole(rank) and 1 <= rank <= count for rank in self.ranks)
        if len(self.ranks) != count or not fits:
            raise ConfigError(f"ranks must hold a number from 1 to {count} for each candidate, got {shown(self.ranks)}")


@dataclass(frozen=True, kw_only=True)
class Rating(Judgement):
    """How good one response is in several respects. ratings: attribute, such as "quality", to 1 (worst) to 5 (best)."""

    ratings: Mapping[str, int]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.candidates) != 1:
            raise ConfigError(f"a rating is of one candidate, got {len(self.candidates)}")
        if not isinstance(self.ratings, Mapping) or not self.ratings:
            raise ConfigError(f"a rating needs at least one attribute with its value, got {shown(self.ratings)}")
        for name, value in self.ratings.items():
            if not _is_whole(value) or value not in RATINGS:
                raise ConfigError(f"the rating of {shown(name)} must be 1 to 5, got {shown(value)}")


@dataclass(frozen=True, kw_only=True)
class Edit(Judgement):
    """One response, and how the annotator would have written it."""

    edited: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.candidates) != 1:
            raise ConfigError(f"an edit is of one candidate, got {len(self.candidates)}")
        check_text(_text("edited", self.edited), "the edited response")


Record = Comparison | Ranking | Rating | Edit
KINDS: dict[str, type[Record]] = {"comparison": Comparison, "ranking": Ranking, "rating": Rating, "edit": Edit}
"""The name of each kind of record."""


def kind_of(record: Record) -> str:
    """The name of a record's kind, a key of `KINDS`."""
    return type(record).__name__.lower()
