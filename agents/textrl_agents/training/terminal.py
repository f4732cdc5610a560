"""A training run in a terminal: the progress it shows, the signals that stop it, and libraries kept quiet meanwhile."""

from __future__ import annotations

import contextlib
import datetime
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich comes with the command line, and not with every library
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

REFRESH_SECONDS = 0.2  # of the bar
LINE_SECONDS = 10.0  # from one line to the next


def progress_text(tokens: int, total: int, per_second: float, measured: str = "") -> str:
    """Return one line: tokens so far and in all, speed, time left at that speed, and what was measured."""
    parts = [f"{tokens:,}/{total:,} tokens", f"{tokens / max(total, 1):.0%}"]
    if per_second > 0:
        left = datetime.timedelta(seconds=round(max(total - tokens, 0) / per_second))
        parts += [f"{per_second:,.0f} tokens/s", f"{left} left"]
    return "  ".join([*parts, measured]).rstrip()


def measured_text(score: float, kl: float | None) -> str:
    """Return the means of the last rollout as text: score, and KL per response in nats where it is known."""
    return f"score {score:.3f}" if kl is None else f"score {score:.3f}  KL {kl:.2f}"


def progress_bar(console: Console, *columns: ProgressColumn, shown: bool) -> Progress:
    """Make a bar with a description before it, `columns` behind it, and the time that has passed and that is left."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    before = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24))
    after = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*before, *columns, *after, console=console, transient=True, disable=not shown)


class TrainingProgress:
    """Shows tokens, tokens/s, time left, score and KL, on stderr so that stdout stays machine-readable.

    Where stderr is a terminal it shows a bar. Elsewhere (a file, nohup, Slurm, a notebook) it prints a line at the
    start, one every `LINE_SECONDS`, one for each evaluation and one at the end. Evaluations count neither in the speed
    nor in the time left. enabled: False shows nothing.
    """

    def __init__(self, enabled: bool = True, console: Console | None = None):
        from rich.console import Console
        from rich.progress import TextColumn

        self._console = console or Console(stderr=True)
        self._shows_bar = enabled and self._console.is_interactive
        self._shows_lines = enabled and not self._shows_bar
        tokens = TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens")
        measured = TextColumn("{task.fields[measured]}")
        self._progress = progress_bar(self._console, tokens, measured, shown=self._shows_bar)
        self._task: TaskID | None = None
        self._measured = ""
        self._tokens, self._first, self._total = 0, 0, 0
        self._started_at, self._shown_at, self._paused_at = 0.0, 0.0, 0.0

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.stop()

    def start(self, tokens: int, total: int) -> None:
        """Begin at `tokens` of `total`."""
        if self._task is None:
            self._task = self._progress.add_task("training", total=total, completed=tokens, measured="")
        self._first, self._total, self._started_at = tokens, total, time.monotonic()
        self.advance(tokens, show=True)

    def advance(self, tokens: int, *, show: bool = False) -> None:
        """Note the tokens so far, at every step. They are shown when that is due, or at once where `show` says so."""
        now = time.monotonic()
        self._tokens = tokens
        pause = LINE_SECONDS if self._shows_lines else REFRESH_SECONDS
        if self._task is None or (not show and now - self._shown_at < pause):
            return
        self._shown_at = now
        per_second = (tokens - self._first) / max(now - self._started_at, 1e-9)
        if self._shows_lines:
            self._print(progress_text(tokens, self._total, per_second, self._measured))
        else:
            measured = f"{per_second:,.0f}/s {self._measured}"
            self._progress.update(self._task, completed=tokens, measured=measured)

    def measured(self, score: float, kl: float | None) -> None:
        """Note the means of the last rollout: score, and KL per response in nats where it is known."""
        self.note(measured_text(score, kl))

    def note(self, measured: str) -> None:
        """Show `measured` beside the tokens from now on."""
        self._measured = measured

    def evaluating(self) -> None:
        """Show that the policy is evaluated from now on."""
        self._paused_at = time.monotonic()
        if self._task is not None:
            self._progress.update(self._task, description="evaluating")
        if self._shows_lines:
            self._print(f"evaluating after {self._tokens:,} tokens ...")

    def evaluated(self, found: str) -> None:
        """Show an evaluation's result, in a terminal too as a line of its own. Training goes on."""
        self._shown_at = time.monotonic()
        self._started_at += self._shown_at - self._paused_at
        if self._task is not None:
            self._progress.update(self._task, description="training")
        if self._shows_lines or self._shows_bar:
            self._print(f"evaluation after {self._tokens:,} tokens: {found}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class StopSignals:
    """Notes the first Ctrl-C or SIGTERM in `received`, and prints `answer`. A second one does what it always does."""

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python delivers signals to the main thread only; in another thread the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._note) for kind in self.HANDLED}
        return self

    def __exit__(self, *raised: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
        print(f"{self.received.name}: {self.answer}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def errors_only(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Silence the logger `name`, and those below it without a level of their own. level: what is still shown."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
