"""A benchmark's progress: a line for each cell or job that is done, and a bar for what runs; in a file, lines alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, TextColumn

from textrl_agents.algorithms.cell import Cell
from textrl_agents.training.terminal import progress_bar
from textrl_env.foreign_text import visible

SHOWN = ("objective", "kl", "normalized")
LINE_SECONDS = 60.0
NAMED = 3  # running jobs that are named; the others are only counted


class JobProgress:
    """Shows jobs on stderr, so that stdout is left to results.

    Where stderr is no terminal (a file, nohup, Slurm) each job that starts has a line too, and after `LINE_SECONDS`
    without a line there is one that says what runs. unit: what a job is called. enabled: False shows nothing.
    """

    def __init__(self, total: int, *, unit: str, done: int = 0, enabled: bool = True, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.enabled, self.failed = enabled, 0
        self._shows_lines = enabled and not self.console.is_terminal
        self._running: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._shown_at = time.monotonic()
        shows_bar = enabled and self.console.is_terminal
        self._progress = progress_bar(self.console, MofNCompleteColumn(), TextColumn(unit), shown=shows_bar)
        self._task = self._progress.add_task("starting", total=total, completed=done)
        self._total, self._done = total, done

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Show a line of its own."""
        if self.enabled:
            self._print(text, "yellow")

    def begin(self, key: str, name: str) -> None:
        """Show that a job has started."""
        self._running[key], self._since[key] = name, time.monotonic()
        if self._shows_lines:
            self._print(f"[{self._done}/{self._total}] {name}: started")
        self._describe()

    def waiting(self) -> None:
        """Show what runs, where that is due. Call it now and then while jobs run."""
        now = time.monotonic()
        if self._shows_lines and self._running and now - self._shown_at >= LINE_SECONDS:
            names = [f"{name} ({(now - self._since[key]) / 60:.0f} min)" for key, name in self._running.items()]
            self._print(f"[{self._done}/{self._total}] running: {'; '.join(names)}")

    def end(self, key: str, name: str, text: str, *, failed: bool = False) -> None:
        """Show what a job gave, or the error that it failed with."""
        self._running.pop(key, None)
        self._done += 1
        self.failed += failed
        if self.enabled:
            shown = f"FAILED: {' '.join(text.split())}" if failed else text
            self._print(f"[{self._done}/{self._total}] {name}: {shown}", "red" if failed else "")
        self._progress.advance(self._task)
        self._describe()

    def seconds(self, key: str) -> float:
        """How long a running job has run."""
        return time.monotonic() - self._since[key]

    def _print(self, text: str, style: str = "") -> None:
        self._shown_at = time.monotonic()
        self.console.print(escape(visible(text)), style=style, soft_wrap=True, highlight=False)

    def _describe(self) -> None:
        names = list(self._running.values())
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        failed = f"{self.failed} failed; " if self.failed else ""
        text = f"{failed}{'; '.join(names[:NAMED])}{more}" or "waiting"
        self._progress.update(self._task, description=escape(visible(text)))


class CellProgress(JobProgress):
    """Shows cells, and of each that is done its main figures."""

    def __init__(self, total: int, *, done: int = 0, enabled: bool = True, console: Console | None = None):
        super().__init__(total, unit="cells", done=done, enabled=enabled, console=console)

    def started(self, cell: Cell) -> None:
        """Show that a cell has started."""
        self.begin(cell.key, _name(cell))

    def finished(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Show what a cell gave, from its line of results."""
        if line["status"] != "done":
            self.end(cell.key, _name(cell), str(line["error"]), failed=True)
            return
        metrics = line["metrics"]
        shown = "  ".join(f"{key} {round(metrics[key], 3) + 0.0:.3f}" for key in SHOWN if key in metrics)
        self.end(cell.key, _name(cell), f"{shown}  {line['train_seconds']:.0f} s")


def _name(cell: Cell) -> str:
    return f"{cell.algorithm} on {cell.task}, seed {cell.seed}"
