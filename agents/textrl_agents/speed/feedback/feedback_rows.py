"""Rows on the feedback store: the export of many records, and the next question among many."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from textrl_agents.runs.atomic import atomic_file
from textrl_agents.speed.measurement import Bench, Measured, Target, measurement
from textrl_env.preferences import Candidate, Comparison, FeedbackStore, Question
from textrl_env.preferences.feedback_file import write_feedback
from textrl_env.preferences.formats.own import OWN

WORDS = "the soup was warm and the room was quiet, so we stayed for another night at the old hotel " * 4
ANNOTATORS = 8


@measurement(Target("<=", 10.0), unit="s", quick={"records": 10_000}, quick_target=Target("<=", 1.0))
def export_of_records(bench: Bench, *, records: int = 100_000) -> Measured:
    """Time the export of a store with so many comparisons to a JSON Lines file; the median of the rounds."""
    with tempfile.TemporaryDirectory() as folder, FeedbackStore(Path(folder, "votes.db")) as store:
        start = time.perf_counter()
        store.add(_comparisons(records))
        stored = time.perf_counter() - start
        seconds = []
        for _ in range(bench.repeats):
            start = time.perf_counter()
            with atomic_file(Path(folder, "out.jsonl")) as file:
                write_feedback(file, store.records(), OWN)
            seconds.append(time.perf_counter() - start)
    return Measured(statistics.median(seconds), f"{records:,} comparisons; storing them took {stored:.1f} s")


@measurement(Target("<=", 20.0), unit="ms", quick={"questions": 10_000, "calls": 100})
def next_question(bench: Bench, *, questions: int = 100_000, calls: int = 400) -> Measured:
    """Time `next_question` for annotators in turn, who answer each, with two votes to a question; the median call."""
    pair = (Candidate(f"good {WORDS}"), Candidate(f"bad {WORDS}"))
    with tempfile.TemporaryDirectory() as folder, FeedbackStore(Path(folder, "votes.db")) as store:
        store.ask((Question("comparison", f"prompt {number}", pair) for number in range(questions)), votes=2)
        asked, given = [], []
        for number in range(calls):
            start = time.perf_counter()
            lease = store.next_question(f"a{number % ANNOTATORS}")
            asked.append(1000 * (time.perf_counter() - start))
            assert lease is not None
            start = time.perf_counter()
            store.answer(lease.token, lease.record(preferred=0))
            given.append(1000 * (time.perf_counter() - start))
    slowest, vote = max(asked), statistics.median(given)
    return Measured(statistics.median(asked), f"slowest {slowest:.1f} ms; an answer takes {vote:.1f} ms")


def _comparisons(count: int) -> Iterator[Comparison]:
    for number in range(count):
        yield Comparison(
            prompt=f"prompt {number}",
            candidates=(
                Candidate(f"good {WORDS}", "policy", {"temperature": 1.0}),
                Candidate(f"bad {WORDS}", "policy"),
            ),
            preferred=number % 2,
            order=(0, 1),
            annotator=f"a{number % ANNOTATORS}",
            duration=3.5,
            columns={"group": "hotel"},
        )
