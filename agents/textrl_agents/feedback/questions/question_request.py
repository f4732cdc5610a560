"""What an operator wants asked: of which policies, on which prompts, of what kind, and of how many annotators."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from textrl_agents.feedback.questions.prompt_source import PromptSource
from textrl_agents.feedback.questions.question_file import read_questions
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.preferences.question import Question

if TYPE_CHECKING:  # ready questions need no torch
    from textrl_env.models import CausalLMActorCritic

RESPONSES = {"comparison": 2, "ranking": 4, "rating": 1, "edit": 1}
"""The responses that a question of each kind is about, where nothing else is said."""


class Made(NamedTuple):
    """Questions, the votes wanted for each, and how many prompts gave no question since their responses were alike."""

    questions: list[Question]
    votes: list[int]
    dropped: int


@dataclass(frozen=True, kw_only=True)
class QuestionRequest:
    """Questions to be made, from `policies` on a task's or a file's prompts, or read from the file `ready`.

    policies: names of one or more. prompts: a file or data set. count: prompts to draw. responses: of a ranking.
    attributes: of a rating. max_new_tokens, temperature: of the sampling; None for the task's and the policy's own.
    overlap: annotators of a shared question. overlap_share: of the questions that are shared.

    Raises ConfigError where these do not go together.
    """

    policies: tuple[str, ...] = ()
    task: str | None = None
    prompts: str | None = None
    ready: Path | None = None
    count: int = 100
    kind: str = "comparison"
    responses: int | None = None
    attributes: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    temperature: float | None = None
    overlap: int = 1
    overlap_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in RESPONSES:
            raise UnknownName("kind of question", self.kind, RESPONSES)
        if self.attributes and self.kind != "rating":
            raise ConfigError(f"attributes are of a rating, and the questions are of the kind {self.kind}")
        if self.responses is not None and (self.kind != "ranking" or self.responses < 2):
            raise ConfigError(f"responses must be 2 or more, of a ranking; got {self.responses} of a {self.kind}")
        if len(self.policies) > self._responses:
            raise ConfigError(
                f"{len(self.policies)} policies need questions of as many responses, and a {self.kind} has "
                f"{self._responses}; take another kind, or one policy"
            )
        if self.ready is not None and (self.policies or self.task or self.prompts):
            raise ConfigError("ready questions come without a policy, a task and prompts")
        if self.policies and (self.task is None) == (self.prompts is None):
            raise ConfigError("questions about a policy need prompts: give either a task or a file of prompts")
        if not self.policies and (self.task or self.prompts):
            raise ConfigError("prompts are answered by a policy; give one, such as embedded")

    @property
    def is_empty(self) -> bool:
        """Whether it says of nothing what to ask about."""
        return not self.policies and self.ready is None

    def made(self, load: Callable[[str], CausalLMActorCritic], progress: Callable[[str], None]) -> Made:
        """Make the questions. load: gives the policy of a name. progress: is told what is being done."""
        questions, dropped = self._ready() if self.ready is not None else self._sampled(load, progress)
        return Made(questions, self._votes(len(questions)), dropped)

    @property
    def _responses(self) -> int:
        return RESPONSES[self.kind] if self.responses is None else self.responses

    def _ready(self) -> tuple[list[Question], int]:
        assert self.ready is not None
        return read_questions(self.ready, kind=self.kind, attributes=self.attributes), 0

    def _sampled(
        self, load: Callable[[str], CausalLMActorCritic], progress: Callable[[str], None]
    ) -> tuple[list[Question], int]:
        source = PromptSource.of_task(self.task) if self.task else PromptSource.of_file(str(self.prompts))
        source = source.drawn(self.count, self.seed)
        from textrl_agents.feedback.questions.sampled_questions import NamedPolicy, sampled_questions

        return sampled_questions(
            [NamedPolicy(name, load(name)) for name in self.policies],
            source.rows,
            kind=self.kind,
            responses=self._responses,
            attributes=self.attributes,
            max_new_tokens=self.max_new_tokens or source.max_new_tokens,
            temperature=self.temperature,
            stop=source.stop,
            seed=self.seed,
            progress=progress,
        )

    def _votes(self, count: int) -> list[int]:
        """`overlap` for a random share of the questions, at least one: without it no agreement can be measured."""
        votes = [1] * count
        shared = min(count, max(1, round(self.overlap_share * count))) if self.overlap_share > 0 else 0
        for place in random.Random(self.seed).sample(range(count), shared):
            votes[place] = self.overlap
        return votes
