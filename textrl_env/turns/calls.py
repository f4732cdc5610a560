"""Call several functions at a time, in a bounded number of threads, each within a time limit."""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

_Job = tuple[int, contextvars.Context, Callable[[], Any]]


class Called(NamedTuple):
    """What became of a call."""

    value: Any = None
    error: BaseException | None = None
    timed_out: bool = False


class ConcurrentCalls:
    """Calls functions in at most `workers` threads, which are kept between calls.

    A call that takes longer than `seconds` is given up: its thread cannot be stopped, so it is left to end by itself (a
    daemon, which keeps no process alive), and another takes its place. None for no limit.

    Functions are begun in their order and results come in that order, so nothing depends on which thread is faster, as
    long as the functions share nothing.
    """

    def __init__(self, workers: int, seconds: float | None, name: str):
        self.workers, self.seconds, self.name = workers, seconds, name
        self._idle: list[_Worker] = []

    def run(self, functions: Sequence[Callable[[], Any]]) -> list[Called]:
        """Call all of them, and wait for each to end or to run out of time."""
        results: SimpleQueue[tuple[_Worker, int, Called]] = SimpleQueue()
        found: dict[int, Called] = {}
        running: dict[int, tuple[_Worker, float]] = {}  # place -> its thread, and when its time is up
        waiting = list(enumerate(functions))[::-1]
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    place, function = waiting.pop()
                    running[place] = self._worker(), math.inf if self.seconds is None else _now() + self.seconds
                    running[place][0].jobs.put(((place, contextvars.copy_context(), function), results))
                first = min(running, key=lambda place: running[place][1])
                try:
                    # A timed wait wakes up for signals, so Ctrl-C works here.
                    worker, place, called = results.get(timeout=_until(running[first][1]))
                except Empty:
                    if _now() >= running[first][1]:
                        running.pop(first)[0].jobs.put(None)
                        found[first] = Called(timed_out=True)
                    continue
                if place in running:  # else it has ended after its time was up
                    del running[place]
                    self._idle.append(worker)
                    found[place] = called
        finally:
            for worker, _ in running.values():  # Ctrl-C: they end with their calls
                worker.jobs.put(None)
        return [found[place] for place in range(len(functions))]

    def close(self) -> None:
        """End the threads that wait for work."""
        while self._idle:
            self._idle.pop().jobs.put(None)

    def __del__(self) -> None:
        self.close()

    def _worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():  # not alive: this process was forked off the one that made it
                return worker
        return _Worker(self.name)


def _now() -> float:
    return time.monotonic()


def _until(deadline: float) -> float:
    return min(max(0.0, deadline - _now()), 3600.0)


class _Worker:
    """One daemon thread with a queue of jobs; a job of None ends it."""

    def __init__(self, name: str):
        self.jobs: SimpleQueue[tuple[_Job, SimpleQueue[Any]] | None] = SimpleQueue()
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        thread.start()
        self.is_alive = thread.is_alive

    def _serve(self) -> None:
        while (job := self.jobs.get()) is not None:
            (place, context, function), results = job
            try:
                called = Called(context.run(function))
            except BaseException as error:  # SystemExit too: it belongs to the caller, not to this thread
                called = Called(error=error)
            results.put((self, place, called))
            del job, context, function, results, called  # held no longer than the call
