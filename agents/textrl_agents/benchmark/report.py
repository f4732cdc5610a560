"""`report.md` and `report.html`: what a benchmark found, for a reader who knows nothing of it.

Both show the same sections. What models wrote, and whatever else a results file brings, stays text in both: the page is
escaped by Jinja2 and allows no script and nothing from outside; in Markdown, responses stand in fenced code.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from textrl_agents.benchmark import figures
from textrl_agents.benchmark.aggregate import Summary, summarize
from textrl_agents.benchmark.registry import get_algorithm
from textrl_agents.benchmark.report_markdown import FIGURES, Picture, Section, Table, Text, markdown, prose, visible
from textrl_agents.benchmark.report_sections import (
    all_tasks,
    caveats,
    counted,
    findings,
    glossary,
    intervals,
    machines,
    samples,
    shortened,
    task_section,
    too_few,
)
from textrl_env.errors import TextRLError
from textrl_env.tasks import get_task

HTML, MARKDOWN = "report.html", "report.md"


def write_report(folder: str | Path, results: list[dict[str, Any]]) -> tuple[Path, Path]:
    """Write report.md, the figures beside it, and report.html, which needs no other file; returns the first and last.

    results: the lines of results.jsonl. A report that is there already is replaced as a whole file, or left as it is.
    Raises ConfigError where there is nothing to report, MissingExtra without matplotlib, TextRLError where a file
    cannot be written.
    """
    folder = Path(folder)
    summary = summarize(results)
    found = sections(summary)
    title = f"Benchmark: {counted(len(summary.labels), 'algorithm')} on {counted(len(summary.tasks), 'task')}"
    for section in found:
        for block in section.blocks:
            if isinstance(block, Picture):
                _write(folder / FIGURES / block.name, block.png)
    _write(folder / MARKDOWN, markdown(title, found).encode("utf-8", "backslashreplace"))
    _write(folder / HTML, _html(title, found).encode("utf-8", "backslashreplace"))
    return folder / MARKDOWN, folder / HTML


def sections(summary: Summary) -> list[Section]:
    """The report's sections, in the order in which they are read."""
    looks = figures.styles(summary.labels)
    found = [
        Section("In short", [Text(findings(summary), bullets=True), *too_few(summary)]),
        Section("What was run", _what_was_run(summary)),
        Section("How to read the numbers", [glossary(summary), Text(intervals())]),
        *[task_section(number, table, looks) for number, table in enumerate(summary.tasks, 1)],
        Section("All tasks together", all_tasks(summary.across, looks)),
        *[Section(f"Samples: {table.label}", blocks) for table in summary.tasks if (blocks := samples(table))],
    ]
    failures = [failure for table in summary.tasks for row in table.rows for failure in row.failures]
    if failures:
        rows = [(f.algorithm, f.task, str(f.seed), shortened(f.error)) for f in failures]
        table = Table(("algorithm", "task", "seed", "error"), rows, numbers=False)
        found.append(Section("Failures", [Text(["These runs gave no result. They count in no mean."]), table]))
    return [*found, Section("Caveats", [Text(caveats(summary), bullets=True)]), _settings(summary)]


def _what_was_run(summary: Summary) -> list[Text | Table]:
    lines = summary.lines
    names = {row.label: row.name for table in summary.tasks for row in table.rows}
    algorithms = [
        (label, _description(get_algorithm, names[label]),
         ", ".join(table.label for table in summary.tasks if any(row.label == label for row in table.rows)))
        for label in summary.labels
    ]  # fmt: skip
    tasks = []
    for table in summary.tasks:
        coefficients = [row.lines[0].get("kl_coef") for row in table.finished]
        tasks.append((table.label, _description(get_task, table.name), _distinct(coefficients)))
    started = [str(line.get("started")) for line in lines]
    done = sum(len(row.lines) for table in summary.tasks for row in table.rows)
    facts = [
        ("runs", f"{done} finished, {len(lines) - done} failed"),
        ("seeds", _distinct(sorted({line["seed"] for line in lines}))),
        ("budget", f"{_distinct(sorted({line.get('budget') or 0 for line in lines}))} tokens generated in training"),
        ("evaluation", f"{_distinct(line.get('eval_episodes') for line in lines)} fresh responses to held-out prompts"),
        *[("machine", machine) for machine in machines(lines)],
        *[(name, _distinct((line.get("versions") or {}).get(name) for line in lines)) for name in _packages(lines)],
        ("started", " to ".join(dict.fromkeys((min(started), max(started))))),
        ("to run it", _command(lines) + " (with the settings below; again, it tries failed runs once more)"),
        ("this report", "textrl bench report FOLDER"),
    ]
    return [
        Text(
            [
                "Each algorithm starts from the same language model, the reference, and trains it so that a reward "
                "model scores its responses higher, while a charge on the KL keeps it near the reference. A run is one "
                "algorithm on one task with one seed; each may generate as many tokens as the budget says. Then the "
                "trained model answers held-out prompts (where the task keeps some back from training), and these "
                "answers are measured."
            ]
        ),
        Table(("algorithm", "what it is", "run on"), algorithms, numbers=False),
        Table(("task", "what is asked", "kl_coef"), tasks, numbers=False),
        Table(("", ""), facts, numbers=False),
    ]


def _settings(summary: Summary) -> Section:
    rows = []
    for table in summary.tasks:
        for row in table.rows:
            rows.append((row.label, table.label, _json(row.settings), _json(row.env)))
    header = ("algorithm", "task", "settings", "environment")
    return Section("Settings", [Table(header, rows, numbers=False)])


def _description(get: Callable[[str], Any], name: str) -> str:
    """Of an algorithm or a task; "" for one that this process does not know."""
    try:
        return str(get(name).description)
    except Exception:  # a plugin that is gone or broken is no reason to show no results
        return ""


def _command(lines: Sequence[dict[str, Any]]) -> str:
    algorithms, tasks = (",".join(dict.fromkeys(str(line[key]) for line in lines)) for key in ("algorithm", "task"))
    words = ["textrl", "bench", "run", "--algos", algorithms, "--tasks", tasks]
    words += ["--seeds", str(len({line["seed"] for line in lines}))]
    for option, key in (("--budget", "budget"), ("--eval-episodes", "eval_episodes")):
        values = {line.get(key) for line in lines}
        if len(values) == 1 and None not in values:  # else each task has its own, those of the preset
            words += [option, str(*values)]
    return shlex.join([*words, "--out", "FOLDER"])


def _packages(lines: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line.get("versions") or {}))


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(f"{v:,}" if isinstance(v, int) else str(v) for v in values if v is not None)) or "-"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _html(title: str, found: Sequence[Section]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"visible": visible, "prose": prose, "csp_hash": _csp_hash}
    return environment.get_template(f"{HTML}.j2").render(title=title, sections=found)


def _csp_hash(text: str) -> str:
    """The source expression that allows this inline text and no other (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()}"


def _write(path: Path, content: bytes) -> None:
    """Replace `path` as a whole; a reader never sees a part of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError as error:
        raise TextRLError(f"{path} cannot be written: {error}. What was there before is unchanged.") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
