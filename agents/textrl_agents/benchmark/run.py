"""`textrl bench run`: a plan's cells run, and their lines written as they come; stopped anywhere, it can go on.

benchmark.yaml   what is run, with every setting
results.jsonl    a line for each cell that was run
logs/            what cells that failed have printed
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark.cell_progress import CellProgress
from textrl_agents.benchmark.plan import PLAN, Plan
from textrl_agents.benchmark.plugins import load_plugins
from textrl_agents.benchmark.pool import CellPool
from textrl_agents.benchmark.provenance import cores
from textrl_agents.benchmark.results import ResultsFile
from textrl_agents.runs.atomic import write_atomically
from textrl_agents.runs.out_folder import foreign_names, locked_folder
from textrl_agents.training.extras import require
from textrl_agents.training.stop_signals import StopSignals
from textrl_agents.training.trust import require_trust
from textrl_env.arguments import user_path
from textrl_env.errors import ConfigError

RESULTS, LOGS = "results.jsonl", "logs"


class BenchmarkStopped(KeyboardInterrupt):
    """A signal has stopped a benchmark; every cell that was done is recorded, and no process is left."""

    def __init__(self, received: signal.Signals, done: int, total: int):
        self.received, self.done, self.total = received, done, total
        super().__init__(f"stopped by {received.name} with {done} of {total} cells done")


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
    """Run what `out` does not hold yet; the last line of each of the plan's cells that has one, in the plan's order.

    plan: None goes on with the one that is there. A larger plan than that is welcome, another one is refused.
    jobs: cells side by side; None for one a core, and one alone on a GPU. time_limit: seconds of a cell.
    trust: run the Python that the plan in `out` names where `plan` is None; as for `resume`.
    ray: on a Ray cluster, that of `ray_address` or a local one with `ray_arguments` (see `ray_session`).

    A cell that is done is never run twice; one that failed is tried again. Raises ConfigError where another run writes
    this folder, or where nothing says what to run; BenchmarkStopped on Ctrl-C and SIGTERM.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs!r}")
    if time_limit is not None and (ray or time_limit <= 0):
        raise ConfigError(f"a time limit is a number of seconds > 0, and not for --ray; got {time_limit!r}")
    folder = user_path(out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out {str(folder)!r} is a file; a benchmark needs a folder")
    if plan is None and not (folder / PLAN).is_file():
        raise ConfigError(
            f"{str(folder)!r} holds no benchmark to go on with; say what to run: "
            "--algos ppo,a2c --tasks exact, or --preset quick"
        )
    if not (folder / PLAN).is_file() and (others := foreign_names(folder, PLAN)):
        raise ConfigError(
            f"out {str(folder)!r} is not empty, and what it holds is no benchmark: {others}. Choose another --out"
        )
    with locked_folder(folder):
        if plan is None:
            require_trust(Plan.read(folder / PLAN).to_dict(), folder, trust)
        plan = _agreed(plan, folder)
        load_plugins(plan.plugins)
        results = ResultsFile(folder / RESULTS)
        torn = results.repair()
        cells = plan.cells
        latest = results.read().latest
        pending = [cell for cell in cells if latest.get(cell.key, {}).get("status") != "done"]
        with CellProgress(len(cells), done=len(cells) - len(pending), enabled=progress) as shown:
            for note in plan.notes:
                shown.note(f"note: {note}")
            if torn:
                shown.note(f"note: the last line of {results.path} was cut off; its cell is run again")
            if ray:
                pending = _left_to_ray(pending, shown)

            def finished(cell: Cell, line: dict[str, Any]) -> None:
                results.append(line)
                latest[cell.key] = line
                shown.finished(cell, line)

            with _Stop() as stop:

                def stop_requested() -> bool:
                    shown.waiting()  # this is asked again and again while cells run
                    return stop.received is not None

                handlers: dict[str, Any] = {
                    "started": shown.started,
                    "finished": finished,
                    "stop_requested": stop_requested,
                }
                if pending and ray:
                    from textrl_agents.benchmark.ray_tune import run_cells_with_tune

                    arguments = {**({} if jobs is None or ray_address else {"num_cpus": jobs}), **(ray_arguments or {})}
                    run_cells_with_tune(
                        pending,
                        folder=folder,
                        plugins=plan.plugins,
                        jobs=jobs,
                        address=ray_address,
                        **handlers,
                        **arguments,
                    )
                elif pending:
                    pool = CellPool(
                        min(jobs or _default_jobs(plan.device), len(pending)),
                        logs=folder / LOGS,
                        plugins=plan.plugins,
                        time_limit=time_limit,
                    )
                    pool.run(pending, **handlers)
        lines = [latest[cell.key] for cell in cells if cell.key in latest]
        if stop.received is not None:
            done = sum(line["status"] == "done" for line in lines)
            raise BenchmarkStopped(stop.received, done, len(cells))
        return lines


def _agreed(plan: Plan | None, folder: Path) -> Plan:
    """The plan to run, written to the folder. Raises ConfigError where the folder holds another one."""
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


class _Stop(StopSignals):
    """Cells that are done are recorded already, so there is nothing to save."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        print(f"{self.received.name}: ending the cells in flight", file=sys.stderr, flush=True)
