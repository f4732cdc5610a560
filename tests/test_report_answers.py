"""A report begins with its answers: what to use by quality, cost and KL, and a leaderboard that can be sorted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from result_lines import failed, line

from textrl_agents.benchmark.report.answers import leaderboard, which_to_use
from textrl_agents.benchmark.report.report import sections, write_report
from textrl_agents.benchmark.report.summary import summarize
from textrl_agents.reports.blocks import TableBlock

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def runs(algorithm: str, objective: float, *, kl: float, seconds: float, task: str = "sentiment", **changes: Any):
    """Three seeds whose objectives spread by 0.1 around the mean: their interval is 0.248 to each side."""
    return [
        line(algorithm, task, seed, objective=objective + 0.1 * (seed - 1), score=1.0, kl=kl, train_seconds=seconds)
        | changes
        for seed in range(3)
    ]


def study() -> list[dict[str, Any]]:
    """ppo leads; grpo and rloo overlap with it and sarsa does not; best_of_n overlaps and is not trained."""
    return [
        *runs("reference", 0.0, kl=0.0, seconds=0.0, tokens=0),
        *runs("ppo", 2.0, kl=4.0, seconds=60.0),
        *runs("rloo", 1.9, kl=3.0, seconds=20.0),
        *runs("grpo", 1.8, kl=2.0, seconds=30.0),
        *runs("sarsa", 1.0, kl=0.5, seconds=1.0),
        *runs("best_of_n", 1.7, kl=1.0, seconds=0.0, tokens=0),
    ]


def choices(lines: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    table = which_to_use(summarize(lines))[0]
    assert isinstance(table, TableBlock)
    return [tuple(row) for row in table.rows]


def test_what_to_use_by_quality_cost_and_kl():
    assert choices(study()) == [("sentiment", "ppo (2.000 ± 0.248)", "rloo (20 s)", "best_of_n (1.00 nats)")]


def test_where_one_is_best_by_more_than_its_interval_it_is_named_alone():
    lines = [*runs("ppo", 2.0, kl=4.0, seconds=60.0), *runs("sarsa", 1.0, kl=0.5, seconds=1.0)]
    assert choices(lines) == [("sentiment", "ppo (2.000 ± 0.248)", "ppo (60 s)", "ppo (4.00 nats)")]


def test_too_few_seeds_recommend_nothing():
    lines = [entry for entry in study() if entry["seed"] < 2]
    assert choices(lines) == [("sentiment", "ppo (1.950); fewer than 3 seeds cannot tell", "-", "-")]
    (text,) = which_to_use(summarize([failed("ppo")]))
    assert text.lines == ["No algorithm has a result yet."]


def test_the_leaderboard_ranks_over_all_tasks_and_adds_up_their_cost():
    lines = [
        *runs("reference", 0.0, kl=0.0, seconds=0.0, tokens=0),
        *runs("reference", 0.0, kl=0.0, seconds=0.0, task="translate", tokens=0),
        *runs("ppo", 1.0, kl=4.0, seconds=60.0),
        *runs("ppo", 2.0, kl=2.0, seconds=30.0, task="translate"),
        *runs("grpo", 2.0, kl=4.0, seconds=60.0),
        *runs("grpo", 4.0, kl=2.0, seconds=30.0, task="translate"),
        *runs("dqn", 9.0, kl=9.0, seconds=9.0, task="translate"),
    ]
    board = leaderboard(summarize(lines))
    assert board.sortable
    assert list(board.header) == [
        "algorithm",
        "all tasks (IQM)",
        "sentiment: objective",
        "translate: objective",
        "KL, mean of tasks",
        "seconds a seed, all tasks",
    ]
    rows = {row[0]: row[1:] for row in board.rows}
    assert list(rows) == ["grpo", "ppo", "reference", "dqn"]  # dqn has no result on one task, and so no place
    assert rows["ppo"][1:] == ("1.000 ± 0.248", "2.000 ± 0.248", "3.00", "90")
    assert rows["dqn"] == ("-", "-", "9.000 ± 0.248", "-", "-")


def test_one_task_is_ranked_by_its_own_measure():
    board = leaderboard(summarize(study()))
    assert [row[0] for row in board.rows] == ["ppo", "rloo", "grpo", "best_of_n", "sarsa", "reference"]
    assert "all tasks (IQM)" not in board.header


def test_answers_stand_first_and_methods_last():
    titles = [section.title for section in sections(summarize(study()))]
    assert titles[:3] == ["In short", "Which should I use?", "Leaderboard"]
    assert titles[-4:-1] == ["How to read the numbers", "What was run", "Caveats"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [*study(), *runs("dqn", 9.0, kl=9.0, seconds=9.0, task="translate")]
    return write_report(tmp_path_factory.mktemp("report"), lines)[1]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium: install Debian's package chromium")
@pytest.mark.parametrize("width", [390, 1600])
def test_a_heading_sorts_the_leaderboard_in_a_browser(page_file: Path, tmp_path: Path, width: int):
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(page_file.as_uri())

        def names() -> list[str]:
            return [cell.inner_text() for cell in page.query_selector_all("table.sortable tbody th")]

        heading = page.get_by_role("button", name="sentiment: objective")
        heading.click()
        assert names() == ["ppo", "rloo", "grpo", "best_of_n", "sarsa", "reference", "dqn"]
        heading.click()
        assert names() == ["reference", "sarsa", "best_of_n", "grpo", "rloo", "ppo", "dqn"]  # no value: last
        page.get_by_role("button", name="algorithm", exact=True).click()
        assert names() == ["best_of_n", "dqn", "grpo", "ppo", "reference", "rloo", "sarsa"]
        assert page.evaluate("document.documentElement.scrollWidth") == width, "the page itself scrolls sideways"
        page.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)
        assert said == []
        browser.close()
