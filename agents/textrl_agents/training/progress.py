"""Show the progress of a training run: a bar in a terminal, plain lines anywhere else."""

from __future__ import annotations

import datetime
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


class TrainingProgress:
    """Shows tokens, tokens/s, time left, score and KL, on stderr so that stdout stays machine-readable.

    A bar where stderr is a terminal. Elsewhere (a file, nohup, Slurm, a notebook) a line at the start, one every
    `LINE_SECONDS`, one for each evaluation and one at the end. Evaluations do not count in the speed or the time left.
    enabled: False shows nothing.
    """

    def __init__(self, enabled: bool = True, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._shows_bar = enabled and self._console.is_interactive
        self._shows_lines = enabled and not self._shows_bar
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
            TextColumn("{task.fields[measured]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._shows_bar,
        )
        self._task: TaskID | None = None
        self._measured = ""
        self._tokens, self._first, self._total = 0, 0, 0
        self._started_at, self._shown_at, self._paused_at = 0.0, 0.0, 0.0

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
        self._first, self._total, self._started_at = tokens, total, time.monotonic()
        self.advance(tokens, show=True)

    def advance(self, tokens: int, *, show: bool = False) -> None:
        """Note the tokens so far, at every step. They are shown where that is due, or at once where `show` says so."""
        now = time.monotonic()
        self._tokens = tokens
        if self._task is None or (
            not show and now - self._shown_at < (LINE_SECONDS if self._shows_lines else REFRESH_SECONDS)
        ):
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
        self._measured = measured_text(score, kl)

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
