"""Eight annotators at one store, in threads and in processes, and processes that are killed: each vote counts once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hang_guard import HANG

from textrl_env.preferences import Candidate, Comparison, FeedbackStore, Question

ANNOTATORS = 8
VOTES = 3
PAIR = (Candidate("good"), Candidate("bad"))


def questions(count: int) -> list[Question]:
    return [Question("comparison", f"prompt {number}", PAIR) for number in range(count)]


def annotate(store: FeedbackStore, name: str) -> int:
    """Answer until nothing is left, every answer twice; return how many were stored."""
    stored = 0
    while not is_done(store):
        lease = store.next_question(name)
        if lease is None:
            if name in seen_all(store):
                return stored
            continue  # what others have may be given back
        record = lease.record(preferred=len(name) % 2)
        assert store.answer(lease.token, record) is True
        assert store.answer(lease.token, record) is False
        stored += 1
    return stored


def is_done(store: FeedbackStore) -> bool:
    progress = store.progress()
    return progress.answered == progress.questions


def seen_all(store: FeedbackStore) -> set[str]:
    progress = store.progress()
    return {name for name, votes in progress.annotators.items() if votes == progress.questions}


def annotate_in_a_process(path: Path, name: str, counts: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    with FeedbackStore(path) as store:
        counts.put((name, annotate(store, name)))


def check_votes(path: Path, count: int, stored: dict[str, int]) -> None:
    """Each question has VOTES answers, each of another annotator, and each annotator the votes that it counted."""
    with FeedbackStore(path, read_only=True) as store:
        records = list(store.records(Comparison))
        assert store.progress().annotators == stored
    asked = Counter((record.prompt, record.annotator) for record in records)
    assert set(asked.values()) == {1}, "a vote was doubled"
    assert Counter(record.prompt for record in records) == {f"prompt {n}": VOTES for n in range(count)}
    assert Counter(record.annotator for record in records) == {name: n for name, n in stored.items() if n}


def test_eight_threads_at_one_store(tmp_path: Path):
    path, count = tmp_path / "votes.db", 12
    with FeedbackStore(path) as store, ThreadPoolExecutor(ANNOTATORS) as pool:
        store.ask(questions(count), votes=VOTES)
        names = [f"a{number}" for number in range(ANNOTATORS)]
        stored = dict(zip(names, pool.map(lambda name: annotate(store, name), names), strict=True))
    check_votes(path, count, stored)


@pytest.mark.slow
def test_eight_processes_that_open_and_make_one_store(tmp_path: Path):
    """They make the file at the same time, too."""
    path, count = tmp_path / "votes.db", 60
    context = multiprocessing.get_context("spawn")
    makers = [context.Process(target=_open, args=(path,)) for _ in range(ANNOTATORS)]
    _run(makers)
    with FeedbackStore(path) as store:
        store.ask(questions(count), votes=VOTES)
    counts = context.Queue()
    names = [f"a{number}" for number in range(ANNOTATORS)]
    _run([context.Process(target=annotate_in_a_process, args=(path, name, counts)) for name in names])
    check_votes(path, count, dict(counts.get(timeout=HANG) for _ in names))


def _open(path: Path) -> None:
    FeedbackStore(path).close()


def _run(processes: list[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANG)
        assert process.exitcode == 0


WRITER = """
import sys
from textrl_env.preferences import FeedbackStore
with FeedbackStore(sys.argv[1]) as store:
    print("ready", flush=True)
    while (lease := store.next_question(sys.argv[2], seconds=0.05)) is not None:
        if store.answer(lease.token, lease.record(preferred=0)):
            print(lease.question_id, flush=True)
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_loses_and_doubles_nothing(tmp_path: Path):
    """What it said that it had stored is there, and no annotator answered a question twice. 50 kills."""
    path = tmp_path / "votes.db"
    with FeedbackStore(path) as store:
        store.ask(questions(20_000), votes=2)
    told: dict[str, list[int]] = {"a": [], "b": []}
    moments = random.Random(0)
    for kill in range(50):
        name = "ab"[kill % 2]
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        lines = [process.stdout.readline() for _ in range(moments.randrange(1, 5))]
        time.sleep(moments.uniform(0, 0.01))  # somewhere within the next vote
        process.send_signal(signal.SIGKILL)
        # The last line may be cut by the kill: it was stored, and nobody was told so.
        lines += process.communicate()[0].splitlines(keepends=True)
        told[name] += [int(line) for line in lines if line.endswith("\n")]
    with FeedbackStore(path) as store:
        given = Counter((record.prompt, record.annotator) for record in store.records())
        progress = store.progress()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert set(given.values()) == {1}
    assert progress.votes == given.total() == sum(progress.annotators.values())
    for name, numbers in told.items():
        assert len(numbers) == len(set(numbers)) >= 25
        assert {(f"prompt {number - 1}", name) for number in numbers} <= given.keys()
        unheard = progress.annotators[name] - len(numbers)
        assert 0 <= unheard <= 25, "at most the vote that was being stored at each of the kills"


def test_the_next_question_costs_no_more_in_a_large_store(tmp_path: Path):
    """Steps of SQLite's machine, which no busy machine changes: in a store of 1,600 questions as in one of 40."""
    assert _steps(tmp_path / "large.db", 400) < 3 * _steps(tmp_path / "small.db", 10)


def _steps(path: Path, each: int) -> int:
    """Steps that it takes until a new annotator and one who answered a quarter have a question, of `4 * each`."""
    with FeedbackStore(path) as store:
        store.ask(questions(4 * each), votes=2)
        connection = store._database._connection
        connection.execute("PRAGMA synchronous = OFF")
        for name in ("a", "b", "c"):
            for _ in range(each):
                lease = store.next_question(name)
                assert lease is not None
                store.answer(lease.token, lease.record(preferred=0))
        steps = []
        connection.set_progress_handler(lambda: steps.append(1), 1)
        assert store.next_question("c") is not None
        assert store.next_question("new") is not None
        connection.set_progress_handler(None, 1)
    return len(steps)
