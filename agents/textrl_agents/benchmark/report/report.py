"""Write `report.md` and `report.html`: what a benchmark found, for a reader who knows nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textrl_agents.benchmark.plan import PLAN, Plan
from textrl_agents.benchmark.report import figures
from textrl_agents.benchmark.report.answers import leaderboard, which_to_use
from textrl_agents.benchmark.report.runs import settings, what_was_run
from textrl_agents.benchmark.report.sections import (
    INTERVALS,
    all_tasks,
    caveats,
    findings,
    glossary,
    samples,
    shortened,
    task_section,
    too_few,
)
from textrl_agents.benchmark.report.summary import Summary, summarize
from textrl_agents.reports.blocks import Section, TableBlock, TextBlock, counted
from textrl_agents.reports.report_files import write_report_files


def write_report(folder: str | Path, results: list[dict[str, Any]]) -> tuple[Path, Path]:
    """Write report.md, the figures beside it, and report.html, which needs no other file; return both paths.

    results: the lines of results.jsonl. Where the folder holds the benchmark's plan, the report says how many of the
    planned runs they are. Each file that is there already is replaced as a whole, or left as it is.
    Raises ConfigError where there is nothing to report, MissingExtra without matplotlib, TextRLError where a file
    cannot be written.
    """
    folder = Path(folder)
    summary = summary_of(folder, results)
    found = sections(summary)
    title = f"Benchmark: {counted(len(summary.labels), 'algorithm')} on {counted(len(summary.tasks), 'task')}"
    return write_report_files(folder, title, found)


def summary_of(folder: Path, results: list[dict[str, Any]]) -> Summary:
    """Summarize the lines of results.jsonl. The folder's plan, if it has one, says how many runs there should be."""
    plan = folder / PLAN
    return summarize(results, [cell.key for cell in Plan.read(plan).cells] if plan.is_file() else None)


def sections(summary: Summary) -> list[Section]:
    """Make the report's sections, in the order in which they are read: the answers first, how they came about last."""
    looks = figures.styles(summary.labels)
    found = [
        Section("In short", [TextBlock(findings(summary), bullets=True), *too_few(summary)]),
        Section("Which should I use?", which_to_use(summary)),
        Section("Leaderboard", [leaderboard(summary)]),
        *[task_section(number, table, looks) for number, table in enumerate(summary.tasks, 1)],
        Section("All tasks together", all_tasks(summary, looks)),
        *[Section(f"Samples: {table.label}", blocks) for table in summary.tasks if (blocks := samples(table))],
    ]
    failures = [failure for table in summary.tasks for row in table.rows for failure in row.failures]
    if failures:
        rows = [(f.algorithm, f.task, str(f.seed), shortened(f.error)) for f in failures]
        table = TableBlock(("algorithm", "task", "seed", "error"), rows, numbers=False)
        found.append(Section("Failures", [TextBlock(["These runs gave no result. They count in no mean."]), table]))
    return [
        *found,
        Section("How to read the numbers", [glossary(summary), TextBlock([INTERVALS])]),
        Section("What was run", what_was_run(summary)),
        Section("Caveats", [TextBlock(caveats(summary), bullets=True)]),
        settings(summary),
    ]
