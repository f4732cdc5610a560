"""Jobs of a benchmark, stage by stage: those of a stage side by side, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from textrl_agents.benchmark.cell_progress import JobProgress
from textrl_agents.benchmark.processes import WorkerProcess, become_worker, end_workers, process_context
from textrl_agents.benchmark.run import BenchmarkStopped
from textrl_agents.training.terminal import StopSignals
from textrl_env.errors import TextRLError
from textrl_env.foreign_text import message_of

POLL_SECONDS = 0.2
LOGS = "logs"  # in the benchmark's folder


class Job(Protocol):
    """A piece of work, which can be hashed and pickled. It leaves its result whole or not at all.

    name: what is shown, in words. log: what its log is called.
    """

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> str: ...

    def is_done(self, folder: Path) -> bool:
        """Whether it need not be run again."""
        ...


J = TypeVar("J", bound=Job)
# Does a job of a plan in the benchmark's folder. A function of a module, since it goes to another process.
Perform = Callable[[Any, Any, Path], None]


def run_stages(
    stages: Sequence[Sequence[J]], perform: Perform, plan: Any, folder: Path, *, side_by_side: int, progress: bool
) -> dict[J, str]:
    """Run all jobs that are not done; return those that failed. After a failure no further stage begins.

    Those of a stage need what the stages before have left. Raises BenchmarkStopped on Ctrl-C and SIGTERM.
    """
    total = sum(map(len, stages))
    done = sum(job.is_done(folder) for stage in stages for job in stage)
    began = time.monotonic()
    with (
        JobProgress(total, unit="jobs", done=done, enabled=progress) as shown,
        StopSignals("ending the jobs in flight") as stop,
    ):
        for stage in stages:
            pending = [job for job in stage if not job.is_done(folder)]
            failures = run_jobs(
                pending,
                perform,
                plan,
                folder,
                side_by_side=side_by_side,
                shown=shown,
                stop_requested=lambda: stop.received is not None,
            )
            if stop.received is not None:
                done = sum(job.is_done(folder) for stage in stages for job in stage)
                raise BenchmarkStopped(stop.received, done, total, unit="jobs")
            if failures:
                return failures
        shown.note(f"all {total} jobs are done; this sitting took {(time.monotonic() - began) / 60:.1f} min")
    return {}


def read_result(path: Path) -> Any:
    """Read the JSON that a job has left. Raises TextRLError that names the file where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TextRLError(f"{path} cannot be read: {error}. Remove it, and the same command makes it again") from error


def jobs_failed(failures: dict[J, str], folder: Path) -> TextRLError:
    """The error that tells of jobs that failed."""
    job, error = next(iter(failures.items()))
    return TextRLError(
        f"{len(failures)} jobs failed, such as {job.name}: {error}. What they printed is in {folder / LOGS}; the "
        "same command tries them again"
    )


def run_jobs(
    jobs: Sequence[J],
    perform: Perform,
    plan: Any,
    folder: Path,
    *,
    side_by_side: int,
    shown: JobProgress,
    stop_requested: Callable[[], bool],
) -> dict[J, str]:
    """Do jobs, `side_by_side` at a time; return those that failed, with their errors.

    When `stop_requested` says so, and on an exception, those in flight are ended. No process is left.
    """
    context, logs = process_context(), folder / LOGS
    logs.mkdir(exist_ok=True)
    waiting, running, failures = deque(jobs), list[_JobProcess](), dict[J, str]()
    try:
        while (waiting or running) and not stop_requested():
            while waiting and len(running) < side_by_side:
                job = waiting.popleft()
                running.append(_JobProcess(context, job, perform, plan, folder))
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

    def __init__(self, context: Any, job: Any, perform: Perform, plan: Any, folder: Path):
        self.job = job
        log = folder / LOGS / f"{job.log}.log"
        super().__init__(context, _work, (job, perform, plan, str(folder), str(log)), log)

    @property
    def error(self) -> str:
        """Why it failed: the last line that it printed, which is the error."""
        if self.process.exitcode != 1:
            return self.how_it_ended
        lines = [line for line in self.tail.splitlines() if line.strip()]
        return lines[-1] if lines else self.how_it_ended


def _work(job: Job, perform: Perform, plan: Any, folder: str, log: str) -> None:
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
