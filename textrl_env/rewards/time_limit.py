"""Run a user's function in a worker thread, so that one that hangs raises `RewardTimeout` instead."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from textrl_env.errors import ConfigError, RewardTimeout
from textrl_env.foreign_text import shown

_Job = tuple[contextvars.Context, Callable[..., Any], dict[str, Any]]
MOST_HANGING = 8
"""Calls of one function that may hang at the same time; each holds a thread, its arguments and whatever it opened."""


class TimeLimit:
    """Calls functions within `seconds`, in a thread that is kept between calls.

    A call costs two thread switches, some tens of microseconds. A thread whose call ran out of time cannot be
    stopped: it is abandoned (it is a daemon, so the process can still exit), ends when its call does, and the next
    call starts a fresh one. With `MOST_HANGING` of them no further call is made until one has ended.
    Only a call into C that never lets go of the interpreter lock escapes the limit.

    seconds: the limit of one call; None calls directly, with no limit and no thread. name: what is called, for
        messages.
    """

    def __init__(self, seconds: float | None, name: str):
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 0 < seconds <= threading.TIMEOUT_MAX):
            raise ConfigError(
                f"timeout must be a number of seconds above 0, or None for no limit; got {shown(seconds)}"
            )
        self.seconds, self.name = seconds, name
        self._idle: list[_Worker] = []  # taken while in use, so that calls from several threads cannot mix
        self._hanging: list[_Worker] = []

    def call(self, function: Callable[..., Any], arguments: dict[str, Any], samples: int) -> Any:
        """`function(**arguments)`; a coroutine is run to its end.

        Raises RewardTimeout where it took longer than the limit (the message names `samples`), or where `MOST_HANGING`
        earlier calls have not ended yet; and whatever the function raises, with its own traceback.
        """
        if self.seconds is None:
            return _run(function, arguments)
        self._refuse_one_more()
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = None
        if worker is None or not worker.is_alive():  # not alive: this process was forked off the one that made it
            worker = _Worker(self.name)
            weakref.finalize(self, worker.jobs.put, None).atexit = False
        worker.jobs.put((contextvars.copy_context(), function, arguments))
        try:
            # A timed wait wakes up for signals, so Ctrl-C works here. It abandons the worker just as a timeout does.
            value, error = worker.results.get(timeout=self.seconds)
        except Empty:
            worker.jobs.put(None)
            self._hanging.append(worker)
            raise RewardTimeout(
                f"reward {self.name!r} did not answer within {self.seconds:g} s for {samples} samples; "
                "make it faster, or raise its limit with timeout=..."
            ) from None
        self._idle.append(worker)
        if error is not None:
            try:
                raise error
            finally:
                del error  # the traceback holds this frame: do not keep the arguments alive in a cycle
        return value

    def _refuse_one_more(self) -> None:
        self._hanging = [worker for worker in self._hanging if worker.is_alive()]
        if len(self._hanging) >= MOST_HANGING:
            raise RewardTimeout(
                f"reward {self.name!r} is not called again: {len(self._hanging)} earlier calls have run past its limit "
                f"of {self.seconds:g} s and still hold a thread each. Let it give up by itself (a timeout on whatever "
                "it waits for), or start the process anew"
            )

    def __getstate__(self) -> dict[str, Any]:
        # Threads are neither pickled nor copied.
        return {"seconds": self.seconds, "name": self.name, "_idle": [], "_hanging": []}


class _Worker:
    """One daemon thread with a queue of jobs; a job of None ends it."""

    def __init__(self, name: str):
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        # The thread refers to the queues only, so that dropping the reward lets `finalize` end the thread.
        thread = threading.Thread(target=_serve, args=(self.jobs, self.results), name=f"reward {name}", daemon=True)
        thread.start()
        self.is_alive = thread.is_alive


def _serve(jobs: SimpleQueue[_Job | None], results: SimpleQueue[tuple[Any, BaseException | None]]) -> None:
    while (job := jobs.get()) is not None:
        context, function, arguments = job
        try:
            results.put((context.run(_run, function, arguments), None))
        except BaseException as error:  # SystemExit too: it belongs to the caller, not to this thread
            results.put((None, error))
        del job, context, function, arguments  # held no longer than the call


def _run(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    result = function(**arguments)
    if inspect.iscoroutine(result):  # TRL takes `async def` rewards too
        return asyncio.run(result)
    return result
