"""A leaderboard keeps what a run was, and running it again says whether its result holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark import rerun
from textrl_agents.benchmark.leaderboard import cell_of, entry_of, submit
from textrl_agents.benchmark.report.report import write_report
from textrl_agents.benchmark.rerun import Verdict, run_again
from textrl_agents.benchmark.results import ResultsFile, failed, new_line
from textrl_agents.benchmark.run_cell import run_cell
from textrl_agents.cli import app
from textrl_agents.reports.statistics import prediction_interval
from textrl_env.errors import ConfigError, TextRLError

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# The objective of three seeds: mean 0.7, standard deviation 0.1. t at two degrees of freedom is 4.303, so that one more
# lies within 4.303 * 0.1 * sqrt(4 / 3) = 0.497 of the mean.
SEEDS = (0.6, 0.7, 0.8)


def cell_with(seed: int, **changes: Any) -> Cell:
    settings = {"settings": {"n_steps": 8}, "eval_episodes": 16, **changes}
    return Cell("rllib_ppo", "exact", seed, 1_000, **settings)


def line_of(cell: Cell, objective: float) -> dict[str, Any]:
    metrics = {"objective": objective, "score": objective + 0.1, "kl": 2.0, "length": 8.0}
    return {**new_line(cell, started=STARTED), "metrics": metrics, "tokens": 992, "curve": [{"tokens": 992}]}


@pytest.fixture
def board(tmp_path: Path) -> Path:
    ResultsFile(tmp_path / "results.jsonl").append(*[line_of(cell_with(seed), y) for seed, y in enumerate(SEEDS)])
    submit(tmp_path, tmp_path / "board.jsonl")
    return tmp_path / "board.jsonl"


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Cell], dict[str, Any]]], None]:
    """Have runs give what a function says, and not train."""

    def use(line_from: Callable[[Cell], dict[str, Any]]) -> None:
        def run(self: Any, cells: Sequence[Cell], *, started: Any, finished: Any, stop_requested: Any) -> None:
            for cell in cells:
                started(cell)
                finished(cell, line_from(cell))

        monkeypatch.setattr(rerun.CellPool, "run", run)

    return use


def test_a_line_says_what_was_run_where_and_with_what_result(board: Path):
    first = json.loads(board.read_text().splitlines()[0])
    assert [first[name] for name in ("task", "algorithm", "library", "seed")] == ["exact", "rllib_ppo", "rllib", 0]
    assert first["metrics"]["objective"] == 0.6
    assert first["tokens"] == 992
    assert first["machine"]["cores"] >= 1
    assert first["versions"]["torch"]
    assert not {"curve", "samples", "traceback"} & first.keys()
    assert first["configuration"] == cell_with(7).configuration != cell_with(0, eval_episodes=17).configuration
    assert cell_of(first) == cell_with(0)


def test_what_is_there_is_not_added_again(board: Path, tmp_path: Path):
    assert submit(tmp_path / "results.jsonl", board) == (0, 3)
    ResultsFile(tmp_path / "results.jsonl").append(line_of(cell_with(3), 0.5), failed(line_of(cell_with(4), 0.5), "no"))
    assert submit(tmp_path, board) == (1, 3)
    assert [line["seed"] for line in ResultsFile(board).read().lines] == [0, 1, 2, 3]


def test_a_line_that_does_not_name_its_library_gets_it():
    line = line_of(cell_with(0), 0.5)
    del line["library"]
    assert entry_of(line)["library"] == "rllib"


@pytest.mark.slow  # it draws
def test_a_report_can_be_made_of_it(board: Path, tmp_path: Path):
    markdown, _ = write_report(tmp_path / "report", ResultsFile(board).read().lines)
    assert "0.700 ± 0.248" in markdown.read_text()  # 4.303 * 0.1 / sqrt(3)


def test_cells_of_other_splits_are_read_back(tmp_path: Path):
    cell = cell_with(0, split="validation", env={"kl_coef": 0.1})
    assert cell_of(line_of(cell, 0.5)) == cell


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"n_steps": 9}}, "its line was changed"),
        ({"seed": 5}, "rllib_ppo on exact with seed 5 cannot be run again: its line was changed"),
        ({"budget": None}, "its line has no budget"),
    ],
)
def test_a_line_that_was_changed_is_refused(board: Path, tmp_path: Path, change: dict[str, Any], message: str):
    before = board.read_bytes()
    changed = tmp_path / "changed.jsonl"
    ResultsFile(changed).append(line_of(cell_with(8), 0.5), {**line_of(cell_with(0), 0.5), **change})
    with pytest.raises(TextRLError, match=message):
        submit(changed, board)
    assert board.read_bytes() == before
    with pytest.raises(TextRLError, match=message):
        run_again(changed, progress=False)


@pytest.mark.parametrize(
    ("objective", "outcome"), [(0.6, "repeats"), (0.61, "holds"), (0.21, "holds"), (0.19, "differs"), (1.21, "differs")]
)
def test_a_result_holds_where_one_more_seed_would_lie(
    board: Path, again: Callable[..., None], objective: float, outcome: str
):
    again(lambda cell: line_of(cell, objective))
    (verdict,) = run_again(board, [1], progress=False)
    assert verdict.outcome == outcome
    assert verdict.expected == pytest.approx((0.7 - 0.4968, 0.7 + 0.4968), abs=1e-4)
    assert (verdict.before, verdict.after) == (0.6, objective)


def test_too_few_seeds_decide_nothing_and_a_failed_run_is_told(tmp_path: Path, again: Callable[..., None]):
    board = tmp_path / "two.jsonl"
    ResultsFile(board).append(*[line_of(cell_with(seed), 0.5) for seed in (0, 1)])
    again(lambda cell: line_of(cell, 0.9) if cell.seed else failed(line_of(cell, 0.9), "ValueError: no luck"))
    verdicts = run_again(board, progress=False)
    assert [verdict.outcome for verdict in verdicts] == ["failed", "undecided"]
    assert verdicts[0] == Verdict(1, cell_with(0), "failed", 0.5, None, None, "ValueError: no luck")


def test_seeds_of_another_configuration_do_not_count(tmp_path: Path, again: Callable[..., None]):
    lines = [line_of(cell_with(seed, settings={"n_steps": 4 + seed}), y) for seed, y in enumerate(SEEDS)]
    ResultsFile(tmp_path / "results.jsonl").append(*lines, line_of(cell_with(9), 0.9))
    submit(tmp_path, tmp_path / "board.jsonl")
    again(lambda cell: line_of(cell, 0.5))
    assert [verdict.outcome for verdict in run_again(tmp_path / "board.jsonl", progress=False)] == ["undecided"] * 4


def test_python_that_a_line_names_is_not_run_unasked(tmp_path: Path, again: Callable[..., None]):
    reward = tmp_path / "mine.py"
    reward.write_text("raise SystemExit('it was run')")
    board = tmp_path / "board.jsonl"
    ResultsFile(board).append(line_of(cell_with(0, env={"reward": f"{reward}:f"}), 0.5))
    again(lambda cell: line_of(cell, 0.5))
    with pytest.raises(ConfigError, match="name Python that would be run"):
        run_again(board, progress=False)
    assert run_again(board, trust=True, progress=False)[0].outcome == "repeats"


def test_prediction_interval_holds_one_more_value_in_95_percent():
    assert prediction_interval(SEEDS) == pytest.approx((0.203172, 1.196828), abs=1e-6)
    draws = np.random.default_rng(0).normal(size=(4_000, 5))
    intervals = [prediction_interval(row[:4]) for row in draws]
    inside = np.mean([low <= value <= high for (low, high), value in zip(intervals, draws[:, 4], strict=True)])
    assert inside == pytest.approx(0.95, abs=0.014)  # four standard errors
    with pytest.raises(ConfigError, match="at least two"):
        prediction_interval([0.5])


class TestCommand:
    def test_adds_and_checks(self, board: Path, tmp_path: Path, again: Callable[..., None]):
        again(lambda cell: line_of(cell, 0.6))
        added = CliRunner().invoke(app, ["bench", "submit", str(tmp_path), "--to", str(tmp_path / "new.jsonl")])
        assert added.exit_code == 0
        assert "3 runs added" in added.output
        done = CliRunner().invoke(app, ["bench", "submit", "--check", str(board), "--line", "1", "--json"])
        assert done.exit_code == 0
        (verdict,) = json.loads(done.stdout)
        assert (verdict["outcome"], verdict["algorithm"], verdict["number"]) == ("repeats", "rllib_ppo", 1)

    def test_exits_with_1_where_a_result_differs(self, board: Path, again: Callable[..., None]):
        again(lambda cell: line_of(cell, 3.0))
        done = CliRunner().invoke(app, ["bench", "submit", "--check", str(board)])
        assert done.exit_code == 1
        assert done.stdout.count("differs") == 3

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give RESULTS and --to FILE"),
            (["runs/a"], "give RESULTS and --to FILE"),
            (["runs/a", "--to", "b", "--line", "1"], "give RESULTS and --to FILE"),
            (["nowhere", "--to", "b"], "holds no results"),
            (["--check", "nowhere"], "holds no results"),
        ],
    )
    def test_wrong_usage(self, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(app, ["bench", "submit", *arguments])
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())
        assert list(tmp_path.iterdir()) == []

    def test_a_line_that_is_not_there(self, board: Path):
        done = CliRunner().invoke(app, ["bench", "submit", "--check", str(board), "--line", "4"])
        assert done.exit_code == 2
        assert "has lines 1 to 3, got 4" in " ".join(done.output.split())


@pytest.mark.slow
def test_a_run_on_the_same_machine_repeats(tmp_path: Path):
    cell = Cell("ppo", "exact", 3, 512, {"n_envs": 8, "n_steps": 16}, eval_episodes=8, device="cpu")
    line = run_cell(cell)
    assert line["status"] == "done", line["error"]
    ResultsFile(tmp_path / "results.jsonl").append(line)
    submit(tmp_path, tmp_path / "board.jsonl")
    (verdict,) = run_again(tmp_path / "board.jsonl", progress=False)
    assert verdict.outcome == "repeats"
