"""Simulated annotators err as often as they say, and say the same whoever else answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from textrl_agents.feedback.simulated import (
    SimulatedAnnotator,
    answer_questions,
    simulated_annotators,
    task_gold,
)
from textrl_env.errors import ConfigError
from textrl_env.language.gold import gold_sentiment
from textrl_env.preferences.question import Question
from textrl_env.preferences.records import Candidate
from textrl_env.preferences.store import FeedbackStore

COUNT = 2000


def pair(number: int) -> Question:
    """The second response is the better one by the scores that the tests give."""
    return Question("comparison", f"prompt {number}", (Candidate("worse"), Candidate("better")))


def choices(
    annotator: SimulatedAnnotator, scores: tuple[float, float], order: tuple[int, int] = (0, 1)
) -> list[object]:
    return [annotator.judge(pair(number), order, np.array(scores))["preferred"] for number in range(COUNT)]


def spread(rate: float) -> float:
    """Four standard deviations of a share of COUNT draws."""
    return 4 * (rate * (1 - rate) / COUNT) ** 0.5


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.45, 1.0])
def test_an_annotator_errs_as_often_as_stated(rate: float) -> None:
    for scores, wrong in (((0.0, 1.0), 0), ((1.0, 0.0), 1)):
        given = choices(SimulatedAnnotator("a", rate), scores)
        assert set(given) <= {0, 1}
        assert given.count(wrong) / COUNT == pytest.approx(rate, abs=spread(rate) + 1e-12)


def test_scores_within_the_threshold_are_a_tie() -> None:
    annotator = SimulatedAnnotator("a", 0.1, ties=0.2)
    given = choices(annotator, (0.5, 0.6))
    assert given.count(None) / COUNT == pytest.approx(0.9, abs=spread(0.1))
    assert given.count(0) / COUNT == pytest.approx(0.05, abs=spread(0.05))
    assert None not in choices(annotator, (0.5, 0.8))
    assert set(choices(SimulatedAnnotator("a", 0.0), (0.5, 0.5))) == {None}


def test_position_bias_takes_the_left_one() -> None:
    for order in ((0, 1), (1, 0)):
        given = choices(SimulatedAnnotator("a", 0.0, position_bias=0.3), (0.0, 1.0), order)
        left_is_worse = order[0] == 0
        assert given.count(0) / COUNT == pytest.approx(0.3 if left_is_worse else 0.0, abs=spread(0.3))


def test_annotators_err_independently_and_a_seed_decides() -> None:
    first, second = (choices(SimulatedAnnotator(name, 0.3), (0.0, 1.0)) for name in "ab")
    both = sum(a == b == 0 for a, b in zip(first, second, strict=True)) / COUNT
    assert both == pytest.approx(0.09, abs=spread(0.09))
    assert choices(SimulatedAnnotator("a", 0.3), (0.0, 1.0)) == first
    assert choices(SimulatedAnnotator("a", 0.3, seed=1), (0.0, 1.0)) != first


def test_rankings_and_ratings_follow_the_gold_score() -> None:
    three = Question("ranking", "p", (Candidate("x"), Candidate("y"), Candidate("z")))
    scores = np.array([0.1, 0.9, 0.1])
    assert SimulatedAnnotator("a", 0.0).judge(three, (2, 0, 1), scores)["ranks"] == (2, 1, 2)
    assert SimulatedAnnotator("a", 1.0).judge(three, (2, 0, 1), np.array([0.1, 0.9, 0.5]))["ranks"] == (1, 3, 2)
    for gold, expected in ((-1.0, 1), (-0.61, 1), (-0.59, 2), (0.0, 3), (0.59, 4), (1.0, 5), (7.0, 5)):
        question = Question("rating", "p", (Candidate("x"),), attributes=("quality",))
        assert SimulatedAnnotator("a", 0.0).judge(question, (0,), np.array([gold]))["ratings"] == {"quality": expected}
        wrong = SimulatedAnnotator("a", 1.0).judge(question, (0,), np.array([gold]))["ratings"]["quality"]
        assert wrong != expected


def test_the_store_gets_their_answers_as_it_gets_peoples(tmp_path: Path) -> None:
    texts = (" terrible. I hated it.", " wonderful. I loved it.")
    questions = [
        Question("comparison", f"The soup number {number} was", tuple(map(Candidate, texts))) for number in range(30)
    ]
    annotators = simulated_annotators([0.0, 0.0, 1.0])
    with FeedbackStore(tmp_path / "a.sqlite") as store:
        store.ask(questions, votes=3)
        told: list[int] = []
        assert answer_questions(store, annotators, task_gold("sentiment"), told=told.append) == 90
        assert told == list(range(1, 91))
        assert store.progress().answered == 30
        assert answer_questions(store, annotators, task_gold("sentiment")) == 0
        records = list(store.records())
    for record in records:
        best = int(np.argmax(gold_sentiment([record.prompt] * 2, [each.text for each in record.candidates])))
        assert record.preferred == (1 - best if record.annotator == "simulated-3" else best)
        assert record.duration is not None
        assert record.duration > 0


def test_what_one_says_does_not_depend_on_who_else_answers(tmp_path: Path) -> None:
    def answers(name: str, annotators: list[SimulatedAnnotator], numbers: list[int]) -> dict[object, object]:
        with FeedbackStore(tmp_path / name) as store:
            store.ask([pair(number) for number in numbers], votes=len(annotators))
            answer_questions(store, annotators, lambda question: np.array([0.0, 1.0]))
            return {each.prompt: each.preferred for each in store.records() if each.annotator == "simulated-2"}

    crowd = simulated_annotators([0.1, 0.4, 0.2])
    assert answers("a", crowd, list(range(40))) == answers("b", crowd[1:2], list(range(39, -1, -1)))


def test_what_cannot_be_is_refused() -> None:
    for settings, match in (
        ({"error_rate": 1.5}, "error_rate must be"),
        ({"ties": -0.1}, "ties must be"),
        ({"position_bias": float("nan")}, "position_bias must be"),
        ({"scale": (1.0, 1.0)}, "scale must be"),
        ({"name": ""}, "annotator"),
    ):
        with pytest.raises(ConfigError, match=match):
            SimulatedAnnotator(**{"name": "a", **settings})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no gold score"):
        task_gold("exact")
    edit = Question("edit", "p", (Candidate("x"),))
    with pytest.raises(ConfigError, match="answer no edit"):
        SimulatedAnnotator("a").judge(edit, (0,), np.array([0.0]))
