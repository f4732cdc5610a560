"""Run cells side by side on this machine, each in a fresh process.

A crash, an out-of-memory kill or a leak then affects one cell, and each cell's peak memory is its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing import connection
from pathlib import Path
from typing import Any

from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark.processes import WorkerProcess, become_worker, end_workers, process_context
from textrl_agents.benchmark.results import failed, new_line
from textrl_env.foreign_text import message_of
from textrl_env.plugins import load_plugin_files

POLL_SECONDS = 0.2


class CellPool:
    """Runs cells, `jobs` at a time.

    logs: a folder for what cells print; the log of a cell that succeeded is removed. plugins: files that each process
    imports first. time_limit: seconds after which a cell is ended and counts as failed; None for no limit.
    """

    def __init__(
        self, jobs: int, *, logs: str | Path, plugins: Sequence[str] = (), time_limit: float | None = None
    ) -> None:
        self.jobs, self.logs, self.plugins, self.time_limit = jobs, Path(logs), tuple(plugins), time_limit

    def run(
        self,
        cells: Sequence[Cell],
        *,
        started: Callable[[Cell], None],
        finished: Callable[[Cell, dict[str, Any]], None],
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        """Call `finished` with each cell's line as it comes.

        When `stop_requested` says so, and on an exception, the cells in flight are ended and have no line. No process
        is left.
        """
        context = process_context()
        self.logs.mkdir(parents=True, exist_ok=True)
        waiting, running = deque(cells), list[_CellProcess]()
        try:
            while (waiting or running) and not stop_requested():
                while waiting and len(running) < self.jobs:
                    cell = waiting.popleft()
                    running.append(_CellProcess(context, cell, self.plugins, self.logs, self.time_limit))
                    started(cell)
                # Wake up now and then: neither a signal nor a time limit sends a message.
                connection.wait([waited for worker in running for waited in worker.waitables], POLL_SECONDS)
                for worker in list(running):
                    line = worker.result()
                    if line is not None:
                        running.remove(worker)
                        try:
                            finished(worker.cell, line)
                        finally:
                            worker.leave()
        finally:
            end_workers(running)
            for worker in running:
                worker.log.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # cells that failed have left what they printed
                self.logs.rmdir()


class _CellProcess(WorkerProcess):
    """A cell in its process."""

    def __init__(self, context: Any, cell: Cell, plugins: Sequence[str], logs: Path, time_limit: float | None):
        self.cell, self.time_limit = cell, time_limit
        log = logs / f"{cell.algorithm}-{cell.task}-{cell.seed}-{cell.key}.log".replace("/", "_").replace(":", "_")
        self._results, theirs = context.Pipe(duplex=False)
        super().__init__(context, _work, (cell, theirs, tuple(plugins), str(log)), log)
        theirs.close()  # so that the pipe ends where the process does
        # Not earlier: the first start waits for the server's imports.
        self.started, self._began = datetime.now(UTC), time.monotonic()

    @property
    def waitables(self) -> list[Any]:
        """What `connection.wait` waits on: a result, or the end of the process."""
        return [self._results, self.process.sentinel]

    def result(self) -> dict[str, Any] | None:
        """The cell's line; None while it runs."""
        alive = self.process.is_alive()  # asked before the pipe, which by then holds what was sent last
        if self._results.poll():
            with contextlib.suppress(EOFError, OSError):
                line: dict[str, Any] = json.loads(self._results.recv_bytes())
                return line
        if not alive:
            return self._failed(f"ProcessDied: {self.how_it_ended}")
        seconds = time.monotonic() - self._began
        if self.time_limit is not None and seconds > self.time_limit:
            end_workers([self])
            return self._failed(f"TimeoutError: it was not done after its time limit of {self.time_limit:g} s")
        return None

    def leave(self) -> None:
        """Wait for the process to end; kill it, and all that it has started, where it lingers."""
        super().leave()
        self._results.close()

    def _failed(self, error: str) -> dict[str, Any]:
        line = new_line(self.cell, started=self.started)
        line["train_seconds"] = time.monotonic() - self._began
        return failed(line, error, self.tail)


def _work(cell: Cell, results: connection.Connection, plugins: tuple[str, ...], log: str) -> None:
    """Run a cell in its own process."""
    started = datetime.now(UTC)
    become_worker(log)
    try:
        load_plugin_files(plugins)
        from textrl_agents.benchmark.run_cell import run_cell

        line = run_cell(cell)
    except Exception as error:  # a plug-in, or an import
        import traceback

        line = failed(
            new_line(cell, started=started), f"{type(error).__name__}: {message_of(error)}", traceback.format_exc()
        )
    results.send_bytes(json.dumps(line, default=str).encode())
    results.close()
    if line["status"] == "done":
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            os.unlink(log)
