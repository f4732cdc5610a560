"""`textrl bench run`: run the cells of a plan, and write each line as it comes. It can be stopped anywhere and go on.

benchmark.yaml   what is run, with every setting
results.jsonl    a line for each cell that was run
logs/            what cells that failed have printed
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark.cell_progress import CellProgress
from textrl_agents.benchmark.plan import PLAN, Plan
from textrl_agents.benchmark.pool import CellPool
from textrl_agents.benchmark.results import ResultsFile
from textrl_agents.runs.atomic import foreign_names, locked_folder, write_atomically
from textrl_agents.training.extras import require
from textrl_agents.training.provenance import cores
from textrl_agents.training.terminal import StopSignals
from textrl_agents.training.trust import require_trust
from textrl_env.errors import ConfigError
from textrl_env.plugins import load_plugin_files
from textrl_env.user_values import user_path

RESULTS, LOGS = "results.jsonl", "logs"


class BenchmarkStopped(KeyboardInterrupt):
    """A signal has stopped a benchmark. Every cell or job that was done is recorded, and no process is left."""

    def __init__(self, received: signal.Signals, done: int, total: int, unit: str = "cells"):
        self.received, self.done, self.total = received, done, total
        super().__init__(f"stopped by {received.name} with {done} of {total} {unit} done")


def run_benchmark(
    plan: Plan | None,
    out: str | Path,
    *,
    jobs: int | None = None,
    time_limit: float | None = None,
    ray: bool = False,
    ray_address: str | None = None,
    ray_arguments: dict[str, Any] | None = None,
    progress: bool = True,
    trust: bool | None = False,
) -> list[dict[str, Any]]:
    """Run the cells of a plan that `out` has no result of; return the last line of each cell, in the plan's order.

    plan: None goes on with the plan in `out`. A plan that adds cells to it is welcome; any other is refused.
    jobs: cells side by side; None for one a core, and one alone on a GPU. time_limit: seconds that a cell may take.
    ray: whether to run on a Ray cluster, that of `ray_address` or a local one with `ray_arguments` (see `ray_session`).
    trust: where `plan` is None, whether to run the Python that the plan in `out` names; None asks at a terminal.

    A cell that is done is never run twice; one that failed is tried again. Raises ConfigError where another run writes
    this folder, or where nothing says what to run; BenchmarkStopped on Ctrl-C and SIGTERM.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs!r}")
    if time_limit is not None and (ray or time_limit <= 0):
        raise ConfigError(f"a time limit is a number of seconds > 0, and not for --ray; got {time_limit!r}")
    folder = _benchmark_folder(out, plan)
    with locked_folder(folder):
        if plan is None:
            require_trust(Plan.read(folder / PLAN).to_dict(), folder, trust)
        plan = _agreed(plan, folder)
        load_plugin_files(plan.plugins)
        results = ResultsFile(folder / RESULTS)
        torn = results.repair()
        latest, cells = results.read().latest, plan.cells
        pending = [cell for cell in cells if latest.get(cell.key, {}).get("status") != "done"]
        with (
            CellProgress(len(cells), done=len(cells) - len(pending), enabled=progress) as shown,
            StopSignals("ending the cells in flight") as stop,
        ):
            for note in plan.notes:
                shown.note(f"note: {note}")
            if torn:
                shown.note(f"note: the last line of {results.path} was cut off; its cell is run again")
            follow = _following(results, latest, shown, stop)
            if ray:
                pending = _left_to_ray(pending, shown)
            if ray and pending:
                _run_with_ray(plan, pending, folder, jobs, ray_address, ray_arguments or {}, follow)
            elif pending:
                jobs = min(jobs or _default_jobs(plan.device), len(pending))
                CellPool(jobs, logs=folder / LOGS, plugins=plan.plugins, time_limit=time_limit).run(pending, **follow)
        lines = [latest[cell.key] for cell in cells if cell.key in latest]
        if stop.received is not None:
            raise BenchmarkStopped(stop.received, sum(line["status"] == "done" for line in lines), len(cells))
        return lines


def _following(
    results: ResultsFile, latest: dict[str, dict[str, Any]], shown: CellProgress, stop: StopSignals
) -> dict[str, Any]:
    """What is called while cells run: it writes each line down as it comes, and shows the progress.

    latest: key of a cell -> its last line, which is kept up to date.
    """

    def finished(cell: Cell, line: dict[str, Any]) -> None:
        results.append(line)
        latest[cell.key] = line
        shown.finished(cell, line)

    def stop_requested() -> bool:
        shown.waiting()  # this is asked again and again while cells run
        return stop.received is not None

    return {"started": shown.started, "finished": finished, "stop_requested": stop_requested}


def _run_with_ray(
    plan: Plan,
    cells: Sequence[Cell],
    folder: Path,
    jobs: int | None,
    address: str | None,
    arguments: dict[str, Any],
    follow: dict[str, Any],
) -> None:
    """Run cells as trials of Ray Tune. arguments: of a local cluster. follow: see `_following`."""
    from textrl_agents.benchmark.ray_tune import run_cells_with_tune

    if jobs is not None and not address:
        arguments = {"num_cpus": jobs, **arguments}
    run_cells_with_tune(cells, folder=folder, plugins=plan.plugins, jobs=jobs, address=address, **follow, **arguments)


def _benchmark_folder(out: str | Path, plan: Plan | None) -> Path:
    """Return the folder to write to. Raises ConfigError where it cannot be one, or has no benchmark to go on with."""
    folder = user_path(out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out {str(folder)!r} is a file; a benchmark needs a folder")
    if (folder / PLAN).is_file():
        return folder
    if plan is None:
        raise ConfigError(
            f"{str(folder)!r} holds no benchmark to go on with; say what to run: "
            "--algos ppo,a2c --tasks exact, or --preset quick"
        )
    if others := foreign_names(folder, PLAN):
        raise ConfigError(
            f"out {str(folder)!r} is not empty, and what it holds is no benchmark: {others}. Choose another --out"
        )
    return folder


def _agreed(plan: Plan | None, folder: Path) -> Plan:
    """Return the plan to run, written to the folder. Raises ConfigError where the folder holds another one."""
    path = folder / PLAN
    if path.is_file():
        stored = Plan.read(path)
        if plan is None:
            return stored
        keys = {cell.key for cell in plan.cells}
        others = [cell for cell in stored.cells if cell.key not in keys]
        if others:
            first = others[0]
            raise ConfigError(
                f"{str(folder)!r} holds another benchmark: {len(others)} of its {len(stored.cells)} cells are not in "
                f"this one, such as {first.algorithm} on {first.task} with {first.budget} tokens and settings "
                f"{dict(first.settings)}. Go on with it by --out alone, or choose another --out"
            )
    assert plan is not None
    write_atomically(path, plan.to_yaml())
    return plan


def _left_to_ray(cells: Sequence[Cell], shown: CellProgress) -> list[Cell]:
    """Return the cells that can be trials of Ray, and say which others are left out."""
    require("ray")
    from textrl_agents.benchmark.ray_tune import runs_in_a_trial

    kept = [cell for cell in cells if runs_in_a_trial(cell)]
    if others := sorted({cell.algorithm for cell in cells} - {cell.algorithm for cell in kept}):
        shown.note(
            f"note: {', '.join(others)} use Ray themselves and cannot run inside its trials; the same command without "
            "--ray runs them"
        )
    return kept


def _default_jobs(device: str) -> int:
    from textrl_env.models.storage.loading import resolve_device

    return cores() if resolve_device(device).type == "cpu" else 1
