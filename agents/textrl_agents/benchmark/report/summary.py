"""The summary of a benchmark that a report shows: a table for each task, and the comparison over all tasks."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

from textrl_agents.algorithms.registry import algorithm_names
from textrl_agents.benchmark.report.across_tasks import TaskComparison, compare
from textrl_agents.benchmark.report.task_tables import Line, TaskTable, task_tables
from textrl_env.errors import ConfigError


@dataclass(frozen=True)
class Summary:
    """Everything a report shows. lines: the last one of each cell, in the order in which cells first appear.

    planned: how many runs the benchmark has. done: how many of them gave a result. Where some are missing, `comparison`
    is empty: which algorithm leads over all tasks would depend on which runs came first.
    """

    lines: tuple[Line, ...]
    tasks: tuple[TaskTable, ...]
    comparison: TaskComparison
    planned: int
    done: int

    @property
    def is_partial(self) -> bool:
        """Whether planned runs have no result."""
        return self.done < self.planned

    @property
    def labels(self) -> list[str]:
        """The labels of all algorithms, in the registry's order, which is the same in every report."""
        names = {row.label: row.name for table in self.tasks for row in table.rows}
        place = {name: number for number, name in enumerate(algorithm_names())}
        return sorted(names, key=lambda label: (place.get(names[label], len(place)), label))


def summarize(results: Sequence[Line], planned: Collection[str] | None = None) -> Summary:
    """Summarize the lines of results.jsonl. Raises ConfigError for no lines, or a line that is not a cell's.

    planned: the keys of all cells of the benchmark; None takes those that have a line.
    """
    lines = latest(results)
    tables = task_tables(lines)
    keys = {line["key"] for line in lines} if planned is None else set(planned)
    done = sum(line["key"] in keys and line["status"] == "done" for line in lines)
    comparison = compare(tables) if done == len(keys) else TaskComparison()
    return Summary(tuple(lines), tables, comparison, planned=len(keys), done=done)


def latest(results: Sequence[Line]) -> list[Line]:
    """Return the last line of each key: a cell that was tried again counts once."""
    if not results:
        raise ConfigError("there are no results to report: run `textrl bench run` into this folder first")
    last: dict[Hashable, Line] = {}
    for number, line in enumerate(results, 1):
        missing = [name for name in ("key", "algorithm", "task", "seed", "status") if name not in line]
        if missing:
            raise ConfigError(
                f"line {number} of the results is not a benchmark cell's: it lacks {', '.join(missing)}. Remove it."
            )
        last[line["key"]] = line
    return list(last.values())
