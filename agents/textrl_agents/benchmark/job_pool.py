"""Jobs side by side, each in a process of its own."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from textrl_agents.benchmark.cell_progress import JobProgress
from textrl_agents.benchmark.processes import WorkerProcess, become_worker, end_workers, process_context
from textrl_env.foreign_text import message_of

POLL_SECONDS = 0.2


class Job(Protocol):
    """A piece of a benchmark's work, which leaves a result in the benchmark's folder. Jobs are hashable.

    kind, key: by which its results and its log are known. name: what is shown.
    """

    @property
    def kind(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def name(self) -> str: ...

    def is_done(self, folder: Path) -> bool:
        """Whether its result is there."""


JobType = TypeVar("JobType", bound=Job)


def run_jobs(
    jobs: Sequence[JobType],
    perform: Callable[[JobType, Any, Path], None],
    plan: Any,
    folder: Path,
    *,
    side_by_side: int,
    shown: JobProgress,
    stop_requested: Callable[[], bool],
) -> dict[JobType, str]:
    """Do jobs, `side_by_side` at a time; return those that failed, with their errors.

    perform: does one, given the plan and the benchmark's folder; a function of a module, which other processes find.

    When `stop_requested` says so, and on an exception, those in flight are ended. No process is left.
    """
    context, logs = process_context(), folder / "logs"
    logs.mkdir(exist_ok=True)
    waiting, running, failures = deque(jobs), list[_JobProcess](), dict[JobType, str]()
    try:
        while (waiting or running) and not stop_requested():
            while waiting and len(running) < side_by_side:
                job = waiting.popleft()
                running.append(_JobProcess(context, job, perform, plan, folder, logs))
                shown.begin(job.name, job.name)
            connection.wait([worker.process.sentinel for worker in running], POLL_SECONDS)
            shown.waiting()
            for worker in [each for each in running if not each.process.is_alive()]:
                running.remove(worker)
                worker.leave()
                job, seconds = worker.job, shown.seconds(worker.job.name)
                if worker.process.exitcode == 0 and job.is_done(folder):
                    worker.log.unlink(missing_ok=True)
                    shown.end(job.name, job.name, f"{seconds:.0f} s")
                else:
                    failures[job] = worker.error
                    shown.end(job.name, job.name, worker.error, failed=True)
        return failures
    finally:
        end_workers(running)
        for worker in running:
            worker.log.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # jobs that failed have left what they printed
            logs.rmdir()


class _JobProcess(WorkerProcess):
    """A job in its process."""

    def __init__(self, context: Any, job: Any, perform: Callable[..., None], plan: Any, folder: Path, logs: Path):
        self.job = job
        log = logs / f"{job.kind}-{job.key}.log"
        super().__init__(context, _work, (job, perform, plan, str(folder), str(log)), log)

    @property
    def error(self) -> str:
        """Why it failed: the last line that it printed, which is the error."""
        if self.process.exitcode != 1:
            return self.how_it_ended
        lines = [line for line in self.tail.splitlines() if line.strip()]
        return lines[-1] if lines else self.how_it_ended


def _work(job: Any, perform: Callable[..., None], plan: Any, folder: str, log: str) -> None:
    """Do a job in its own process, on one thread of the CPU: jobs run side by side."""
    become_worker(log)
    try:
        import torch

        torch.set_num_threads(1)
        perform(job, plan, Path(folder))
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {message_of(error)}", file=sys.stderr)
        sys.exit(1)
