"""`results.jsonl`: whole lines or none, whatever happens while one is written."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark.results import ResultsFile, failed, new_line
from textrl_env.errors import TextRLError


def line(seed: int, **extra: Any) -> dict[str, Any]:
    return {"algorithm": "ppo", "task": "exact", "seed": seed, "key": f"{seed:016x}", "status": "done", **extra}


@pytest.fixture
def file(tmp_path: Path) -> ResultsFile:
    return ResultsFile(tmp_path / "results.jsonl")


def test_lines_come_back_as_they_were_written(file: ResultsFile) -> None:
    assert file.read() == ([], "")
    assert file.repair() == ""
    lines = [line(0, metrics={"score": 0.1}), line(1, text="naïve 😀\n \u2028 \ud800", later="unknown key")]
    for entry in lines:
        file.append(entry)
    assert file.read() == (lines, "")
    assert file.path.read_bytes().count(b"\n") == 2


def test_the_last_line_of_a_cell_counts(file: ResultsFile) -> None:
    for entry in (line(0, status="failed"), line(1), line(0, tokens=7)):
        file.append(entry)
    latest = file.read().latest
    assert [entry["seed"] for entry in latest.values()] == [0, 1]
    assert latest[line(0)["key"]]["tokens"] == 7


def test_a_last_line_cut_anywhere_is_dropped_and_the_next_one_starts_on_its_own(file: ResultsFile) -> None:
    """A process can be killed after any byte of a write."""
    file.append(line(0))
    kept = len(file.path.read_bytes())
    file.append(line(1, samples=[{"prompt": "é", "response": "é"}]))
    whole = file.path.read_bytes()
    for cut in range(kept, len(whole)):
        file.path.write_bytes(whole[:cut])
        contents = file.read()
        complete = cut == len(whole) - 1  # nothing but its line end is missing
        assert [entry["seed"] for entry in contents.lines] == ([0, 1] if complete else [0])
        assert contents.torn == ("" if complete else whole[kept:cut].decode(errors="replace"))
        assert file.repair() == contents.torn
        file.append(line(2))
        assert [entry["seed"] for entry in file.read().lines] == ([0, 1, 2] if complete else [0, 2])
        assert file.repair() == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"key": "1", "alg', "Unterminated string"),
        ("[1, 2]", "a JSON object was expected, got list"),
        ('{"key": "1", "status": "done"}', "it has no algorithm, task, seed"),
        ("\0\0\0", "Expecting value"),
        ("[" * 100_000, "maximum recursion depth"),
        ('{"seed": ' + "9" * 5000 + "}", "Exceeds the limit"),
        (json.dumps(line(1) | {"key": []}), r"its key must be text, got \[\]"),
        (json.dumps(line(1) | {"seed": "x"}), "its seed must be a whole number, got 'x'"),
        (json.dumps(line(1, metrics=[1])), r"its metrics must be an object, got \[1\]"),
        (json.dumps(line(1, env="x" * 500)), "its env must be an object, got 'x{59}[.]"),
        (json.dumps(line(1, budget={})), "its budget must be a whole number, got {}"),
        (json.dumps(line(1, curve=[3])), "its curve must hold objects, got 3"),
        (json.dumps(line(1, samples=[{"prompt": "a"}])), "its samples must hold objects with prompt and response"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(file: ResultsFile, text: str, why: str) -> None:
    file.path.write_text(f"{json.dumps(line(0))}\n{text}\n{json.dumps(line(1))}\n")
    with pytest.raises(TextRLError, match=rf"results\.jsonl, line 2 is no result: {why}.*Remove that line"):
        file.read()


def test_a_full_disk_leaves_the_file_as_it_was(file: ResultsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHECKS 34."""
    file.append(line(0))
    before = file.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            file.append(line(1))
    assert file.path.read_bytes() == before
    file.append(line(2))
    assert [entry["seed"] for entry in file.read().lines] == [0, 2]


def test_a_number_that_json_lacks_is_refused_before_anything_is_written(file: ResultsFile) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.append(line(0, score=float("nan")))
    assert not file.path.exists()


def test_a_failed_line_says_what_was_asked_and_claims_nothing() -> None:
    cell = Cell("ppo", "exact", 3, 100, {"n_steps": 8}, {"kl_coef": {"value": 0.2, "target": 6}}, 64)
    began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    got = failed({**new_line(cell, started=began), "metrics": {"score": 1.0}}, "ValueError: no", "trace")
    asked = {"algorithm": "ppo", "task": "exact", "seed": 3, "budget": 100, "key": cell.key, "eval_episodes": 64}
    assert {name: got[name] for name in asked} == asked
    assert (got["status"], got["error"], got["traceback"]) == ("failed", "ValueError: no", "trace")
    assert (got["metrics"], got["curve"], got["samples"]) == ({}, [], [])
    assert (got["settings"], got["kl_coef"], got["started"]) == ({"n_steps": 8}, 0.2, "2026-01-02T03:04:05+00:00")
    assert got["versions"]["textrl-env"]
    assert got["machine"]["cores"] >= 1
    assert new_line(Cell("ppo", "exact", 0, 1), started=began)["kl_coef"] == 0.5  # the task's own
    assert new_line(Cell("ppo", "no such task", 0, 1), started=began)["kl_coef"] is None
