"""What the documents say holds: links lead somewhere, commands parse, and what a registry knows is on its page."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main
from documents import DOCS, ROOT, anchors, blocks, command_lines, documents, includes, name_of, pages, prose

from generators.write import parts
from textrl_agents.algorithms.registry import algorithm_names, built_in_names, find_algorithm
from textrl_agents.benchmark.leaderboard import cell_of
from textrl_agents.benchmark.plan import PRESETS
from textrl_agents.benchmark.results import ResultsFile
from textrl_agents.cli import app
from textrl_agents.reports.blocks import mean_text
from textrl_agents.reports.statistics import IntervalEstimate
from textrl_agents.runs.config import TrainConfig
from textrl_agents.training.settings_file import parse_assignments
from textrl_env.rewards.make import check_reward_name
from textrl_env.tasks.registry import BUILT_IN, check_task_name

GENERATED = {f"generated/{name}" for name, _ in parts()}
COMMANDS = typer.main.get_command(app)
LINK = re.compile(r"\]\((?!https?:|http:)([^)\s]+)\)")


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_links_lead_somewhere(path: Path):
    """To a file, and to a heading in it. What is generated Sphinx alone can see, to whom a warning is an error."""
    for target in LINK.findall(prose(path)):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if in_docs(found) in GENERATED:
            continue
        assert found.is_file(), target
        if anchor and not any(in_docs(part) in GENERATED for part in included(found)):
            assert any(anchor in anchors(part) for part in (found, *included(found))), target


def in_docs(path: Path) -> str:
    return str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else ""


def included(path: Path) -> list[Path]:
    return [(path.parent / name).resolve() for name in includes(path)]


@pytest.mark.parametrize("path", [page for page in pages() if includes(page)], ids=name_of)
def test_what_a_page_includes_is_there(path: Path):
    for found in included(path):
        assert found.is_file() or in_docs(found) in GENERATED, found


@pytest.mark.parametrize("path", [each for each in documents() if command_lines(each, "textrl")], ids=name_of)
def test_commands_parse(path: Path):
    for line in command_lines(path, "textrl"):
        command, arguments = COMMANDS, shlex.split(line)[1:]
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        given = command.make_context(command.name, arguments).params  # raises where an option is not known
        check_names_in(line, given)
        if line.startswith("textrl train") and given["settings"]:
            TrainConfig.of(parse_assignments(given["settings"]))


def check_names_in(line: str, given: dict[str, object]) -> None:
    for option in ("task", "tasks"):
        for name in str(given.get(option) or "").split(","):
            if name:
                check_task_name(name)
    for name in str(given.get("algos") or "").split(","):
        assert not name or name in algorithm_names() or "--plugin" in line, name
    if given.get("algo"):
        find_algorithm(given["algo"], given.get("lib"))  # type: ignore[arg-type]
    assert (given.get("preset") or "quick") in PRESETS
    reward = given.get("reward")
    if isinstance(reward, str) and ".py:" not in reward and reward != "reward":
        check_reward_name(reward)


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_install_lines_are_those_of_a_checkout(path: Path):
    """The package is on no index, so `pip install textrl-env` cannot work."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in command_lines(path, "pip"):
        words = shlex.split(line)
        assert words[:4] == ["pip", "install", "-c", "constraints.txt"]
        assert all(re.fullmatch(r"\.(\[[\w,-]+\])?", word) for word in words[4:])
        assert set(re.findall(r"[\w-]+", words[4])) <= set(extras)


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_files_and_targets_that_are_named_are_there(path: Path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"\b(?:examples|tests|docs)/[\w/.-]+\.(?:py|md|png|svg)\b", text):
        assert (ROOT / name).is_file() or "/generated/" in name, name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_algorithm_has_its_section():
    text = (DOCS / "algorithms.md").read_text(encoding="utf-8")
    sections = re.findall(
        r"^### (\w+)\n\n```\{include\} generated/parts/algorithm-(\w+)\.md$", text, flags=re.MULTILINE
    )
    assert sorted(heading for heading, _ in sections) == sorted(built_in_names())
    assert all(heading == part for heading, part in sections)
    settings = re.findall(r"^```\{include\} generated/parts/settings-(\w+)\.md$", text, flags=re.MULTILINE)
    assert settings == [heading for heading, _ in sections]
    assert text.count("**Use it:**") == text.count("**Cost:**") == len(sections)


def test_every_page_is_in_a_table_of_contents():
    named: set[Path] = {DOCS / "index.md"}
    for path in pages():
        for listed in re.findall(r"^```\{toctree\}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL):
            names = [line for line in listed.splitlines() if line and not line.startswith(":")]
            named |= {(path.parent / f"{name}.md").resolve() for name in names}
    assert set(pages()) <= named


def test_the_table_of_the_readme_is_of_the_benchmark_page():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    measured = (DOCS / "benchmark.md").read_text().splitlines()
    assert len(rows) > 5
    assert [row for row in rows if row not in measured] == []


def test_the_table_of_several_turns_is_of_the_leaderboard():
    board = ResultsFile(DOCS / "leaderboard.jsonl").read().lines
    page = (DOCS / "turns.md").read_text(encoding="utf-8")
    for algorithm in ("GRPO", "PPO", "RLOO"):
        runs = [
            line["metrics"] for line in board if (line["algorithm"], line["task"]) == (algorithm.lower(), "exact_turns")
        ]
        assert len(runs) == 5
        columns = (("normalized", 3), ("score", 2), ("kl", 2))
        means = [mean_text(IntervalEstimate.of([run[key] for run in runs]), digits) for key, digits in columns]
        assert f"| {algorithm} | {' | '.join(means)} |" in page


def test_every_line_of_the_leaderboard_can_be_run_again():
    lines = ResultsFile(DOCS / "leaderboard.jsonl").read().lines
    assert len(lines) >= 40
    assert [cell_of(line).configuration for line in lines] == [line["configuration"] for line in lines]


def test_tasks_and_blocks_are_found():
    """So that the tests above cannot pass for want of anything to look at."""
    assert len(pages()) > 30
    assert sum(len(command_lines(path, "textrl")) for path in documents()) > 60
    assert sum(len(blocks(path, "python")) for path in pages()) > 25
    assert {f"generated/tasks/{name}.md" for name in BUILT_IN} <= GENERATED
