"""Run cells side by side on this machine, each in a fresh process.

A crash, an out-of-memory kill or a leak then affects one cell, and each cell's peak memory is its own. On Linux a
server process imports torch once, and each cell is forked from it, so that no cell pays for the imports.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

from textrl_agents.algorithms.cell import Cell
from textrl_agents.benchmark.results import failed, new_line
from textrl_env.foreign_text import message_of
from textrl_env.plugins import load_plugin_files

POLL_SECONDS = 0.2
LEAVE_SECONDS = 10.0  # that a process has to end after its result, or after SIGTERM
TAIL_BYTES = 4000  # that are kept of what a failed process has printed
# The server that cells are forked from imports these. None of them starts a thread, which a fork would lose.
PRELOADED = ("textrl_agents.benchmark.run_cell", "transformers.models.llama.modeling_llama", "textrl_agents.sb3")


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
        context = _context()
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
            _end(running)
            for worker in running:
                worker.log.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # cells that failed have left what they printed
                self.logs.rmdir()


class _CellProcess:
    """A cell in its process."""

    def __init__(self, context: Any, cell: Cell, plugins: Sequence[str], logs: Path, time_limit: float | None):
        self.cell, self.time_limit = cell, time_limit
        self.log = logs / f"{cell.algorithm}-{cell.task}-{cell.seed}-{cell.key}.log".replace("/", "_").replace(":", "_")
        self._results, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(cell, theirs, tuple(plugins), str(self.log)))
        self.process.start()
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
            return self._failed(f"ProcessDied: {_how_it_ended(self.process.exitcode)}")
        seconds = time.monotonic() - self._began
        if self.time_limit is not None and seconds > self.time_limit:
            _end([self])
            return self._failed(f"TimeoutError: it was not done after its time limit of {self.time_limit:g} s")
        return None

    def leave(self) -> None:
        """Wait for the process to end; kill it, and all that it has started, where it lingers."""
        self.process.join(LEAVE_SECONDS)
        self.signal_all("SIGKILL")
        self.process.join()
        self._results.close()
        if not _tail(self.log):
            self.log.unlink(missing_ok=True)

    def signal_all(self, name: str) -> None:
        """Send the signal to the process and to all that it has started."""
        pid, number = self.process.pid, getattr(signal, name, signal.SIGTERM)
        if hasattr(os, "killpg") and pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
        if self.process.is_alive():  # it may not lead its group yet
            self.process.kill() if name == "SIGKILL" else self.process.terminate()

    def _failed(self, error: str) -> dict[str, Any]:
        line = new_line(self.cell, started=self.started)
        line["train_seconds"] = time.monotonic() - self._began
        return failed(line, error, _tail(self.log))


def _context() -> Any:
    if sys.platform != "linux":  # macOS can fork, but its own libraries do not survive it
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    # This process decides what Ctrl-C does. The server ignores it only once it has imported everything.
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        forkserver.ensure_running()
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
    return context


def _end(workers: Sequence[_CellProcess]) -> None:
    for worker in workers:
        worker.signal_all("SIGTERM")
    deadline = time.monotonic() + LEAVE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.signal_all("SIGKILL")
        worker.process.join()


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with exit code {code} and without a result"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    cause = " (the system does so where memory runs out)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{cause}"


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")
    return ""


def _work(cell: Cell, results: connection.Connection, plugins: tuple[str, ...], log: str) -> None:
    """Run a cell in its own process."""
    with contextlib.suppress(AttributeError, OSError):  # Windows has no process groups
        os.setsid()  # Ctrl-C in the terminal goes to the benchmark alone, and what this process starts ends with it
    threading.Thread(target=_end_with_the_benchmark, daemon=True).start()
    started = datetime.now(UTC)
    with open(log, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
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


def _end_with_the_benchmark() -> None:
    """Wait for the benchmark to end, and end with it: where it is killed, its cells must not run on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if hasattr(os, "getpgrp") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
