"""What annotators are asked, and the lease under which one of them has a question for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown
from textrl_env.preferences.records import KINDS, Candidate, Record
from textrl_env.rewards.protocol import Text
from textrl_env.text.prompt_rows import check_row
from textrl_env.text.tokenization import check_text

ATTRIBUTES = ("quality", "safety", "consistency")
"""What a rating is asked for where nothing else is said."""


@dataclass(frozen=True)
class Question:
    """What is asked of annotators.

    kind: "comparison" (two candidates), "ranking" (two or more), "rating" or "edit" (one). prompt: a text, or a chat's
    messages up to the response. columns: the prompt's other columns, such as its group. attributes: what a rating is
    asked for; `ATTRIBUTES` where none is given.

    Raises ConfigError where no record could answer it, such as a comparison of a response with itself.
    """

    kind: str
    prompt: Text
    candidates: tuple[Candidate, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise UnknownName("kind of question", self.kind, KINDS)
        object.__setattr__(self, "candidates", tuple(self.candidates))
        object.__setattr__(self, "attributes", tuple(self.attributes))
        if not all(isinstance(each, Candidate) for each in self.candidates):
            raise ConfigError(f"candidates must be Candidate objects, got {shown(self.candidates)}")
        check_row(self.prompt, self.columns, "the prompt")
        count = len(self.candidates)
        fits = count == 2 if self.kind == "comparison" else count >= 2 if self.kind == "ranking" else count == 1
        if not fits:
            needed = {"comparison": "two candidates", "ranking": "two or more"}.get(self.kind, "one candidate")
            raise ConfigError(f"a {self.kind} is asked of {needed}, got {count}")
        texts = [candidate.text for candidate in self.candidates]
        if len(set(texts)) < count:
            twice = next(text for text in texts if texts.count(text) > 1)
            raise ConfigError(f"a {self.kind} needs different responses, got twice {shown(twice)}")
        self._check_attributes()

    def _check_attributes(self) -> None:
        if self.kind == "rating" and not self.attributes:
            object.__setattr__(self, "attributes", ATTRIBUTES)
        if self.kind != "rating" and self.attributes:
            raise ConfigError(f"attributes are asked for in a rating, not in a {self.kind}; got {self.attributes}")
        for name in self.attributes:
            if not isinstance(name, str) or not name.strip():
                raise ConfigError(f"an attribute must be a name, such as 'quality', got {shown(name)}")
            check_text(name, "an attribute")
        if len(set(self.attributes)) < len(self.attributes):
            raise ConfigError(f"each attribute is asked for once, got {self.attributes}")


@dataclass(frozen=True)
class Lease:
    """A question that one annotator has from `started` until `expires`.

    token: an unguessable text, which answers it. order: the candidates' indices from left to right, drawn at random.
    started, expires: seconds since 1970, UTC.
    """

    token: str
    question_id: int
    question: Question
    annotator: str
    order: tuple[int, ...]
    started: float
    expires: float

    def record(self, **judgement: Any) -> Record:
        """The answer as a record: what the question and the lease say, and `judgement`, such as `preferred=0`.

        Raises ConfigError where the judgement is none of the question's kind.
        """
        asked = self.question
        try:
            return KINDS[asked.kind](
                prompt=asked.prompt,
                candidates=asked.candidates,
                columns=asked.columns,
                annotator=self.annotator,
                order=self.order,
                **judgement,
            )
        except TypeError as error:  # a field that the kind does not have, or one that it lacks
            raise ConfigError(f"this is no answer to a {asked.kind}: {error}") from error
