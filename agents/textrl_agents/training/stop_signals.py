"""Ctrl-C and SIGTERM as a request to stop, so that a run ends with a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Notes the first signal in `received` while it is entered. A second signal does what it always does.

    answer: what is told of the first one.
    """

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, answer: str = "saving a checkpoint") -> None:
        self.answer = answer
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python delivers signals to the main thread only; in another thread the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._note) for kind in self.HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        print(f"{self.received.name}: {self.answer}; once more stops at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self._before = {}
