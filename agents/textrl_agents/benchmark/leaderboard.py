"""A leaderboard: a file of results of many machines, one JSON object a line, from which every run can be run again.

A line is that of `results.jsonl` without its learning curve and its samples: what was run (algorithm, library, task,
seed, budget, settings, environment), what came of it (metrics, tokens, seconds), and where (machine, versions). So
`ResultsFile` reads a leaderboard, and a report can be made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark.plan import JUDGING
from textrl_agents.benchmark.results import ResultsFile, library_of
from textrl_agents.benchmark.run import RESULTS
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.user_values import user_path

# What a line of results holds for the report's figures, and of runs that failed.
_LEFT_OUT = ("curve", "samples", "error", "traceback")


def submit(source: str | Path, leaderboard: str | Path) -> tuple[int, int]:
    """Add the finished runs of a benchmark to a leaderboard; return how many were new, and how many it had.

    source: a benchmark's folder, or a file of results. Nothing is written unless all lines can be.
    Raises ConfigError where there are no results, TextRLError where a line is none.
    """
    path = user_path(source)
    results = ResultsFile(path / RESULTS if path.is_dir() else path)
    if not results.path.is_file():
        raise ConfigError(f"{str(results.path)!r} holds no results; run `textrl bench run --out FOLDER` first")
    entries = [entry_of(line) for line in results.read().latest.values() if line["status"] == "done"]
    if not entries:
        raise ConfigError(f"{str(results.path)!r} holds no run that is done")
    board = ResultsFile(user_path(leaderboard))
    board.path.parent.mkdir(parents=True, exist_ok=True)
    board.repair()
    known = {_run(line) for line in board.read().lines}
    new = [entry for entry in entries if _run(entry) not in known]
    board.append(*new)
    return len(new), len(entries) - len(new)


def entry_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """Make a leaderboard's line of a finished run's line. Raises TextRLError where it cannot be run again."""
    cell = cell_of(line)
    kept = {name: value for name, value in line.items() if name not in _LEFT_OUT}
    library = line.get("library", library_of(cell.algorithm))  # results of before do not name it
    return {**kept, "library": library, "configuration": cell.configuration}


def cell_of(line: Mapping[str, Any]) -> Cell:
    """Read from a line what was run. Raises TextRLError where it lacks something, or was changed since it was run."""
    names = ("algorithm", "task", "seed", "budget", "settings", "env", "eval_episodes")
    if missing := [name for name in names if line.get(name) is None]:
        raise TextRLError(f"{_named(line)} cannot be run again: its line has no {', '.join(missing)}")
    # The line's own split will not do: a task without prompts of the split that was asked for is judged on others.
    cells = [Cell(**{name: line[name] for name in names}, split=split) for split in JUDGING]
    for cell in cells:
        if cell.key == line["key"]:
            return cell
    raise TextRLError(
        f"{_named(line)} cannot be run again: its line was changed since. Its key is {line['key']}, but {cells[0].key} "
        "is that of what it says"
    )


def _named(line: Mapping[str, Any]) -> str:
    return f"{line['algorithm']} on {line['task']} with seed {line['seed']}"


def _run(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["key"], line.get("started"), str(line.get("machine"))
