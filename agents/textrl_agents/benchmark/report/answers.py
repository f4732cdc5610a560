"""What a reader of a report wants first: which algorithm to use, by quality, cost and KL; and all of them ranked."""

from __future__ import annotations

from collections.abc import Sequence

from textrl_agents.benchmark.report.summary import Summary
from textrl_agents.benchmark.report.task_tables import REFERENCE, AlgorithmRow, TaskTable
from textrl_agents.reports.blocks import (
    NO_VALUE,
    Block,
    TableBlock,
    TextBlock,
    mean_text,
    number_text,
    range_text,
)
from textrl_agents.reports.statistics import MIN_SEEDS

_MEASURES = {"normalized": "share of optimum", "objective": "objective"}


def which_to_use(summary: Summary) -> list[Block]:
    """Say for each task what is best, and what is as good as far as the seeds can tell and costs less, or less KL."""
    rows = [(table.label, *_choices(table)) for table in summary.tasks if _ranked(table)]
    if not rows:
        return [TextBlock(["No algorithm has a result yet."])]
    header = ("task", "best", "as good, quickest to train", "as good, least KL")
    how = (
        "As good means that the 95% interval overlaps with that of the best, so that more seeds might turn the order "
        "round. Best-of-n is not trained: it pays whenever it is used, n times the tokens and the reward."
    )
    return [TableBlock(header, rows, numbers=False), TextBlock([how])]


def leaderboard(summary: Summary) -> TableBlock:
    """Rank the algorithms: over all tasks where that can be said, each task's measure, and what they took."""
    comparison, tasks = summary.comparison, summary.tasks
    overall = comparison.ranked if len(comparison.scales) > 1 else []
    first = tasks[0] if tasks else None
    order = overall or ([row.label for row in first.finished] if first is not None else [])
    order = [*order, *(label for label in summary.labels if label not in order and _rows(tasks, label))]
    header = ["algorithm", *(["all tasks (IQM)"] if overall else [])]
    header += [f"{table.label}: {_MEASURES[table.measure]}" for table in tasks]
    header += ["KL, mean of tasks", "seconds a seed, all tasks"]
    rows = []
    for label in order:
        found = _rows(tasks, label)
        cells = [range_text(comparison.iqm[label], 3) if label in overall else NO_VALUE] if overall else []
        for table in tasks:
            row = table.row(label)
            cells.append(NO_VALUE if row is None else mean_text(row.estimates.get(table.measure), 3))
        for key, digits, average in (("kl", 2, True), ("train_seconds", 0, False)):
            values = [row.estimates[key].value for row in found if key in row.estimates]
            total = sum(values) / (len(values) if average else 1) if len(values) == len(tasks) else None
            cells.append(NO_VALUE if total is None else number_text(total, digits))
        rows.append((label, *cells))
    return TableBlock(header, rows, "" if rows else "No run finished.", sortable=True)


def _choices(table: TaskTable) -> tuple[str, str, str]:
    key = table.measure
    best, *others = _ranked(table)
    value = best.estimates[key]
    named = f"{best.label} ({mean_text(value, 3)})"
    if value.interval is None:
        return f"{named}; fewer than {MIN_SEEDS} seeds cannot tell", NO_VALUE, NO_VALUE
    near = [best, *(row for row in others if value.overlaps(row.estimates[key]))]
    trained = [row for row in near if row.estimates["tokens"].value > 0]
    quickest = min(trained, key=lambda row: row.estimates["train_seconds"].value, default=None)
    closest = min(near, key=lambda row: row.estimates["kl"].value)
    seconds = "" if quickest is None else number_text(quickest.estimates["train_seconds"].value, 0)
    return (
        named,
        NO_VALUE if quickest is None else f"{quickest.label} ({seconds} s)",
        f"{closest.label} ({number_text(closest.estimates['kl'].value, 2)} nats)",
    )


def _ranked(table: TaskTable) -> list[AlgorithmRow]:
    """The rows that can be recommended, the best first."""
    return [row for row in table.finished if row.name != REFERENCE and table.measure in row.estimates]


def _rows(tasks: Sequence[TaskTable], label: str) -> list[AlgorithmRow]:
    return [row for table in tasks if (row := table.row(label)) is not None]
