"""Run a leaderboard's runs again, and say of each whether its result holds."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark.cell_progress import CellProgress
from textrl_agents.benchmark.leaderboard import cell_of
from textrl_agents.benchmark.pool import CellPool
from textrl_agents.benchmark.results import ResultsFile
from textrl_agents.reports.statistics import MIN_SEEDS, prediction_interval
from textrl_agents.training.provenance import cores
from textrl_agents.training.terminal import StopSignals
from textrl_agents.training.trust import require_trust
from textrl_env.errors import ConfigError
from textrl_env.plugins import plugin_files
from textrl_env.user_values import user_path

MEASURE = "objective"  # decides: it is what a run is trained for
SAME = 1e-6  # relative difference of two numbers that are the same but for rounding

Outcome = Literal["repeats", "holds", "differs", "undecided", "failed"]


class Verdict(NamedTuple):
    """What running a line again has shown.

    number: of the line in its file, from 1. outcome: "repeats" where every metric is the same; "holds" where the
    objective lies where one more seed's would in 95% of cases; "differs" where it does not; "undecided" where too few
    seeds are there to say where that is; "failed" where the run gave nothing.
    before, after: the objective; None where the run failed. expected: that 95% interval, where it is known.
    """

    number: int
    cell: Cell
    outcome: Outcome
    before: float
    after: float | None
    expected: tuple[float, float] | None
    why: str = ""


def run_again(
    leaderboard: str | Path,
    numbers: Sequence[int] = (),
    *,
    jobs: int | None = None,
    plugins: Sequence[str | Path] = (),
    trust: bool | None = False,
    progress: bool = True,
) -> list[Verdict]:
    """Run lines of a leaderboard again, each in a process of its own, and compare.

    numbers: of the lines, from 1; none for all. jobs: side by side; None for one a core.
    plugins: Python files that register what lines name, such as an algorithm; each process imports them.
    trust: whether to run the Python that lines name; None asks at a terminal.

    Rounding differs between processors and versions, and training carries it far. So a result that is not the same is
    held against the other seeds of its configuration: a run elsewhere is like one with another seed.
    Raises ConfigError for a number that no line has, TextRLError for a line that cannot be run again.
    """
    path = user_path(leaderboard)
    lines = ResultsFile(path).read().lines
    if not lines:
        raise ConfigError(f"{str(path)!r} holds no results")
    chosen = list(dict.fromkeys(numbers)) or list(range(1, len(lines) + 1))
    if wrong := [number for number in chosen if not 1 <= number <= len(lines)]:
        raise ConfigError(f"{str(path)!r} has lines 1 to {len(lines)}, got {wrong[0]}")
    cells = {number: cell_of(lines[number - 1]) for number in chosen}
    for cell in cells.values():
        require_trust({"settings": cell.settings, "env": cell.env}, path, trust)
    found = _run(list(cells.values()), jobs or cores(), plugin_files(plugins), progress)
    return [
        _verdict(number, cell, lines[number - 1], found[cell.key], _values(cell, lines))
        for number, cell in cells.items()
        if cell.key in found
    ]


def _run(cells: Sequence[Cell], jobs: int, plugins: Sequence[str], progress: bool) -> dict[str, dict[str, Any]]:
    """Return each cell's new line by its key. Fewer, where a signal has stopped it."""
    found: dict[str, dict[str, Any]] = {}
    unlike = list({cell.key: cell for cell in cells}.values())
    with (
        tempfile.TemporaryDirectory(prefix="textrl-rerun-") as logs,
        CellProgress(len(unlike), enabled=progress) as shown,
        StopSignals("ending the runs in flight") as stop,
    ):

        def finished(cell: Cell, line: dict[str, Any]) -> None:
            found[cell.key] = line
            shown.finished(cell, line)

        def stop_requested() -> bool:
            shown.waiting()
            return stop.received is not None

        pool = CellPool(min(jobs, len(unlike)), logs=logs, plugins=plugins)
        pool.run(unlike, started=shown.started, finished=finished, stop_requested=stop_requested)
    return found


def _values(cell: Cell, lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """The objective of each seed of a cell's configuration; of a seed that was run several times, the first."""
    found: dict[int, float] = {}
    for line in lines:
        if line.get("configuration") == cell.configuration and MEASURE in line["metrics"]:
            found.setdefault(line["seed"], line["metrics"][MEASURE])
    return list(found.values())


def _verdict(
    number: int, cell: Cell, before: Mapping[str, Any], after: Mapping[str, Any], seeds: Sequence[float]
) -> Verdict:
    old, new = before["metrics"], after["metrics"]
    expected = prediction_interval(seeds) if len(seeds) >= MIN_SEEDS else None
    if after["status"] != "done":
        return Verdict(number, cell, "failed", old[MEASURE], None, expected, str(after["error"]))
    if old.keys() == new.keys() and all(math.isclose(old[name], new[name], rel_tol=SAME, abs_tol=SAME) for name in old):
        outcome: Outcome = "repeats"
    elif expected is None:
        outcome = "undecided"
    else:
        outcome = "holds" if expected[0] <= new[MEASURE] <= expected[1] else "differs"
    return Verdict(number, cell, outcome, old[MEASURE], new[MEASURE], expected)
