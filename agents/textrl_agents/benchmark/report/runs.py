"""The report's sections on what was run: algorithms, tasks, machines and settings."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from textrl_agents.algorithms.registry import get_algorithm
from textrl_agents.benchmark.report.summary import Summary
from textrl_agents.reports.blocks import Block, Section, TableBlock, TextBlock, counted
from textrl_env.tasks import get_task


def what_was_run(summary: Summary) -> list[Block]:
    """Describe the algorithms, the tasks, the budget, the machines, and the command that runs it all again."""
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
        tasks.append((table.label, _description(get_task, table.name), table.prompts or "-", _distinct(coefficients)))
    packages = dict.fromkeys(name for line in lines for name in line.get("versions") or {})
    started = [str(line.get("started")) for line in lines]
    done = sum(len(row.lines) for table in summary.tasks for row in table.rows)
    facts = [
        ("runs", f"{done} finished, {len(lines) - done} failed, of {summary.planned}"),
        ("seeds", _distinct(sorted({line["seed"] for line in lines}))),
        ("budget", f"{_distinct(sorted({line.get('budget') or 0 for line in lines}))} tokens generated in training"),
        ("evaluation", f"{_distinct(line.get('eval_episodes') for line in lines)} fresh responses a run"),
        *[("machine", machine) for machine in machines(lines)],
        *[(name, _distinct((line.get("versions") or {}).get(name) for line in lines)) for name in packages],
        ("started", " to ".join(dict.fromkeys((min(started), max(started))))),
        ("to run it", _command(lines) + " (with the settings below; again, it tries failed runs once more)"),
        ("this report", "textrl bench report FOLDER"),
    ]
    return [
        TextBlock(
            [
                "Each algorithm starts from the same language model, the reference, and trains it so that a reward "
                "model scores its responses higher, while a charge on the KL keeps it near the reference. A run is one "
                "algorithm on one task with one seed; each may generate as many tokens as the budget says. Then the "
                "trained model answers prompts that were held out of training, or the training prompts of a task that "
                "holds none out, and these answers are measured."
            ]
        ),
        TableBlock(("algorithm", "what it is", "run on"), algorithms, numbers=False),
        TableBlock(("task", "what is asked", "evaluated on", "kl_coef"), tasks, numbers=False),
        TableBlock(("", ""), facts, numbers=False),
    ]


def settings(summary: Summary) -> Section:
    """List the settings of each algorithm on each task."""
    rows = []
    for table in summary.tasks:
        for row in table.rows:
            rows.append((row.label, table.label, _json(row.settings), _json(row.env)))
    header = ("algorithm", "task", "settings", "environment")
    return Section("Settings", [TableBlock(header, rows, numbers=False)])


def _description(get: Callable[[str], Any], name: str) -> str:
    """The description of an algorithm or a task; "" for one that this process does not know."""
    try:
        return str(get(name).description)
    except Exception:  # results are shown also where a plug-in is gone or broken
        return ""


def _command(lines: Sequence[dict[str, Any]]) -> str:
    algorithms, tasks = (",".join(dict.fromkeys(str(line[key]) for line in lines)) for key in ("algorithm", "task"))
    words = ["textrl", "bench", "run", "--algos", algorithms, "--tasks", tasks]
    words += ["--seeds", str(len({line["seed"] for line in lines}))]
    for option, key in (("--budget", "budget"), ("--eval-episodes", "eval_episodes")):
        values = {line.get(key) for line in lines}
        if len(values) == 1 and None not in values:  # else each task has its own, those of the preset
            words += [option, str(*values)]
    if any(line.get("split") == "validation" for line in lines):
        words += ["--split", "validation"]
    return shlex.join([*words, "--out", "FOLDER"])


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(f"{v:,}" if isinstance(v, int) else str(v) for v in values if v is not None)) or "-"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def machines(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Describe each machine, with the number of runs on it."""
    counts = Counter(json.dumps(line.get("machine") or {}, sort_keys=True) for line in lines)
    shown = []
    for text, count in counts.items():
        machine = json.loads(text)
        parts = [str(machine.get("cpu") or "unknown"), counted(machine.get("cores") or 0, "core")]
        parts += [str(machine["gpu"])] if machine.get("gpu") else ["no GPU"]
        parts += [f"Python {machine.get('python')}", counted(count, "run")]
        shown.append(", ".join(parts))
    return shown
