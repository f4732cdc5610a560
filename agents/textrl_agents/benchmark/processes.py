"""Processes that work for a benchmark: they print into a log, and none of them outlives it.

On Linux a server process imports torch once, and each worker is forked from it, so that none pays for the imports.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

LEAVE_SECONDS = 10.0  # that a process has to end after its result, or after SIGTERM
TAIL_BYTES = 4000  # that are kept of what a failed process has printed
# The server that workers are forked from imports these. None of them starts a thread, which a fork would lose.
PRELOADED = ("textrl_agents.benchmark.run_cell", "transformers.models.llama.modeling_llama", "textrl_agents.sb3")


class WorkerProcess:
    """A process whose target calls `become_worker(log)` first. It starts at once."""

    def __init__(self, context: Any, target: Callable[..., None], arguments: tuple[Any, ...], log: Path):
        self.log = log
        self.process = context.Process(target=target, args=arguments)
        self.process.start()

    @property
    def tail(self) -> str:
        """The end of what it has printed."""
        with contextlib.suppress(OSError):
            return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")
        return ""

    @property
    def how_it_ended(self) -> str:
        """Why there is no result, in words."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"its process ended with exit code {code} and without a result"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        cause = " (the system does so where memory runs out)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{cause}"

    def leave(self) -> None:
        """Wait for the process to end; kill it, and all that it has started, where it lingers."""
        self.process.join(LEAVE_SECONDS)
        self.signal_all("SIGKILL")
        self.process.join()
        if not self.tail:
            self.log.unlink(missing_ok=True)

    def signal_all(self, name: str) -> None:
        """Send the signal to the process and to all that it has started."""
        pid, number = self.process.pid, getattr(signal, name, signal.SIGTERM)
        if hasattr(os, "killpg") and pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
        if self.process.is_alive():  # it may not lead its group yet
            self.process.kill() if name == "SIGKILL" else self.process.terminate()


def process_context() -> Any:
    """What starts workers, ready to do so."""
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


def end_workers(workers: Sequence[WorkerProcess]) -> None:
    """End processes, and all that they have started."""
    for worker in workers:
        worker.signal_all("SIGTERM")
    deadline = time.monotonic() + LEAVE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.signal_all("SIGKILL")
        worker.process.join()


def become_worker(log: str) -> None:
    """Print into `log`, lead a process group, and end with the benchmark. Called in a process of its own."""
    with contextlib.suppress(AttributeError, OSError):  # Windows has no process groups
        os.setsid()  # Ctrl-C in the terminal goes to the benchmark alone, and what this process starts ends with it
    threading.Thread(target=_end_with_the_benchmark, daemon=True).start()
    with open(log, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()


def _end_with_the_benchmark() -> None:
    """Wait for the benchmark to end, and end with it: where it is killed, its workers must not run on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if hasattr(os, "getpgrp") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
