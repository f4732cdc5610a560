"""The progress of a training run in a terminal; silent anywhere else."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

REFRESH_SECONDS = 0.2


class TrainingProgress:
    """A bar with tokens, tokens/s, score, KL and time left, on stderr so that stdout stays machine-readable.

    enabled: None shows it where stderr is a terminal.
    """

    def __init__(self, enabled: bool | None = None, console: Console | None = None):
        console = console or Console(stderr=True)
        self.enabled = console.is_terminal if enabled is None else enabled
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
            TextColumn("{task.fields[measured]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self.enabled,
        )
        self._task: TaskID | None = None
        self._measured = ""
        self._started_at, self._first, self._shown_at = 0.0, 0, 0.0

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, tokens: int, total: int) -> None:
        """Begin at `tokens` of `total`."""
        if self._task is None:
            self._task = self._progress.add_task("training", total=total, completed=tokens, measured="")
        self._started_at, self._first = time.monotonic(), tokens

    def advance(self, tokens: int) -> None:
        """Tokens so far; called at every step, drawn a few times a second."""
        now = time.monotonic()
        if self._task is None or now - self._shown_at < REFRESH_SECONDS:
            return
        self._shown_at = now
        speed = (tokens - self._first) / max(now - self._started_at, 1e-9)
        self._progress.update(self._task, completed=tokens, measured=f"{speed:,.0f}/s {self._measured}")

    def measured(self, score: float, kl: float) -> None:
        """Means of the last rollout: score, and KL per response in nats."""
        self._measured = f"score {score:.3f}  KL {kl:.2f}"

    def note(self, text: str) -> None:
        """What is being done, in front of the bar."""
        if self._task is not None:
            self._progress.update(self._task, description=text)
