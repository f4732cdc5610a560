"""A benchmark's folder holds one plan: another is refused, and so is one that another process has just begun."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from textrl_agents.benchmark import stored_plan
from textrl_agents.benchmark.stored_plan import PLAN_FILE, StoredPlan
from textrl_env.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Dinner(StoredPlan):
    INCIDENTAL = frozenset({"table"})

    courses: tuple[str, ...] = ("soup",)
    table: str = "left"


def test_a_folder_keeps_its_plan_wherever_it_is_run(tmp_path: Path):
    with Dinner().holding(tmp_path / "out") as folder:
        assert json.loads((folder / PLAN_FILE).read_text()) == {"courses": ["soup"], "table": "left"}
    before = (folder / PLAN_FILE).read_bytes()
    with Dinner(table="right").holding(folder):
        assert (folder / PLAN_FILE).read_bytes() == before
    with pytest.raises(ConfigError, match=r"another plan: courses is \['soup'\] there and \['fish'\] here\. Choose"):
        Dinner(courses=("fish",)).holding(folder).__enter__()


def test_a_plan_that_began_while_the_folder_was_waited_for_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    @contextlib.contextmanager
    def another_was_quicker(folder: Path) -> Iterator[None]:
        folder.mkdir()
        (folder / PLAN_FILE).write_text(json.dumps(Dinner(courses=("fish",)).to_json()))
        yield

    monkeypatch.setattr(stored_plan, "locked_folder", another_was_quicker)
    with pytest.raises(ConfigError, match="holds another plan"):
        Dinner().holding(tmp_path / "out").__enter__()


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"wine": 1}'])
def test_what_is_no_plan_is_told_and_left(tmp_path: Path, text: str):
    (tmp_path / PLAN_FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"plan\.json holds no plan of this benchmark"):
        Dinner().holding(tmp_path).__enter__()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(PLAN_FILE, text)]
