"""Simulated annotators: they answer a store's questions by a gold score, with stated error rates.

They go through the same calls as people do: lease a question, answer it, once. What one says of a question is drawn
from a generator of this annotator, this question and the seed alone. Neither the order of the questions, nor who else
answers them, nor a process that was killed in between changes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError
from textrl_env.preferences.question import Question
from textrl_env.preferences.records import RATINGS, check_pseudonym
from textrl_env.preferences.store import FeedbackStore
from textrl_env.rewards import make_reward
from textrl_env.rewards.scoring import score_episodes
from textrl_env.tasks.registry import get_task
from textrl_env.tasks.task import Task
from textrl_env.user_values import check_number

GoldScore = Callable[[Question], np.ndarray]
"""The true score of each of a question's candidates, float64 [n]; higher is better."""

WORDS_PER_SECOND = 4.0  # of a reader, for the durations


@dataclass(frozen=True)
class SimulatedAnnotator:
    """How one annotator judges.

    error_rate: probability of a wrong answer: the worse of two responses, or a rating that is not the one meant.
    ties: two responses whose gold scores differ by no more than this are called equally good.
    position_bias: probability of taking the left one of two responses without reading them.
    scale: the gold scores that are rated 1 and 5; ratings between are linear.

    Raises ConfigError where one of them cannot be.
    """

    name: str
    error_rate: float = 0.1
    ties: float = 0.0
    position_bias: float = 0.0
    scale: tuple[float, float] = (-1.0, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        check_pseudonym(self.name)
        check_number("error_rate", self.error_rate, 0, 1)
        check_number("ties", self.ties, 0)
        check_number("position_bias", self.position_bias, 0, 1)
        if not self.scale[0] < self.scale[1]:
            raise ConfigError(f"scale must be two numbers, the lower first, got {self.scale}")

    def judge(self, question: Question, order: Sequence[int], scores: np.ndarray) -> dict[str, Any]:
        """What `Lease.record` takes: the judgement, and the seconds it took.

        order: the candidates' indices from left to right. scores: their gold scores.
        Raises ConfigError for a question that asks for an edit: a score writes no text.
        """
        generator = self._generator(question)
        words = sum(len(candidate.text.split()) for candidate in question.candidates)
        duration = (1.0 + words / WORDS_PER_SECOND) * float(generator.lognormal(0.0, 0.3))
        judged = {"comparison": self._comparison, "ranking": self._ranking, "rating": self._rating}.get(question.kind)
        if judged is None:
            raise ConfigError(
                f"simulated annotators answer no {question.kind}; ask for comparisons, rankings or ratings"
            )
        return {**judged(question, order, scores, generator), "duration": duration}

    def _generator(self, question: Question) -> np.random.Generator:
        texts = [candidate.text for candidate in question.candidates]
        about = json.dumps([self.seed, self.name, question.kind, question.prompt, texts])
        digest = hashlib.sha256(about.encode("utf-8", "surrogatepass")).digest()
        return np.random.default_rng(int.from_bytes(digest))

    def _comparison(
        self, question: Question, order: Sequence[int], scores: np.ndarray, generator: np.random.Generator
    ) -> dict[str, Any]:
        return {"preferred": self._better(0, 1, order, scores, generator)}

    def _ranking(
        self, question: Question, order: Sequence[int], scores: np.ndarray, generator: np.random.Generator
    ) -> dict[str, Any]:
        """Compare every pair; a response's rank is one more than the number of responses that won more often."""
        wins = np.zeros(len(scores))
        for first in range(len(scores)):
            for second in range(first + 1, len(scores)):
                better = self._better(first, second, order, scores, generator)
                wins[[first, second] if better is None else better] += 0.5 if better is None else 1.0
        return {"ranks": tuple(1 + int((wins > won).sum()) for won in wins)}

    def _rating(
        self, question: Question, order: Sequence[int], scores: np.ndarray, generator: np.random.Generator
    ) -> dict[str, Any]:
        low, high = self.scale
        share = (float(scores[0]) - low) / (high - low)
        meant = RATINGS[int(np.clip(np.floor(share * len(RATINGS)), 0, len(RATINGS) - 1))]
        others = [rating for rating in RATINGS if rating != meant]
        return {
            "ratings": {
                name: int(generator.choice(others)) if generator.random() < self.error_rate else meant
                for name in question.attributes
            }
        }

    def _better(
        self, first: int, second: int, order: Sequence[int], scores: np.ndarray, generator: np.random.Generator
    ) -> int | None:
        """`first` or `second`; None for a tie. It draws three numbers whatever comes of it."""
        careless, wrong, coin = generator.random(3)
        if careless < self.position_bias:
            return first if list(order).index(first) < list(order).index(second) else second
        difference = scores[first] - scores[second]
        if abs(difference) <= self.ties:
            if wrong >= self.error_rate:
                return None
            return first if coin < 0.5 else second
        right, other = (first, second) if difference > 0 else (second, first)
        return other if wrong < self.error_rate else right


def simulated_annotators(
    error_rates: Sequence[float], *, ties: float = 0.0, position_bias: float = 0.0, seed: int = 0
) -> list[SimulatedAnnotator]:
    """One annotator for each error rate: "simulated-1", "simulated-2", ..."""
    return [
        SimulatedAnnotator(f"simulated-{number}", rate, ties=ties, position_bias=position_bias, seed=seed)
        for number, rate in enumerate(error_rates, start=1)
    ]


def task_gold(task: str | Task) -> GoldScore:
    """The gold score of a task. Raises ConfigError where it has none."""
    chosen = get_task(task)
    if chosen.gold is None:
        raise ConfigError(
            f"task {chosen.name!r} has no gold score, so nobody can be simulated who knows which response is better; "
            "use a task that has one, such as sentiment, or ask people"
        )
    reward = make_reward(chosen.gold)

    def gold(question: Question) -> np.ndarray:
        count = len(question.candidates)
        return score_episodes(
            reward,
            [question.prompt] * count,
            [candidate.text for candidate in question.candidates],
            columns={name: [value] * count for name, value in question.columns.items()},
        ).scores

    return gold


def answer_questions(
    store: FeedbackStore,
    annotators: Iterable[SimulatedAnnotator],
    gold: GoldScore,
    *,
    told: Callable[[int], None] = lambda answers: None,
) -> int:
    """Let the annotators answer in turn until the store has no question for any of them; return how many answers.

    told: called with the number of answers after each.
    """
    known: dict[int, np.ndarray] = {}
    active, answers = list(annotators), 0
    while active:
        for annotator in list(active):
            lease = store.next_question(annotator.name)
            if lease is None:
                active.remove(annotator)
                continue
            if lease.question_id not in known:
                known[lease.question_id] = gold(lease.question)
            judgement: Mapping[str, Any] = annotator.judge(lease.question, lease.order, known[lease.question_id])
            store.answer(lease.token, lease.record(**judgement))
            answers += 1
            told(answers)
    return answers
