"""From the lines of results.jsonl to a table for each task."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textrl_agents.reports.statistics import IntervalEstimate
from textrl_env.foreign_text import shown
from textrl_env.text.prompt_splits import LABELS

Line = dict[str, Any]
REFERENCE = "reference"  # the algorithm that gives the zero of a scale


@dataclass(frozen=True)
class Column:
    """A measure of a cell. key: in a line's `metrics`, or in the line itself. digits: shown after the point."""

    key: str
    title: str
    digits: int
    meaning: str
    cost: bool = False  # of training, not of the policy it gave


COLUMNS = (
    Column("objective", "objective", 3, "score - kl_coef * KL: what the algorithms maximise. Tables of tasks without "
           "a known optimum are sorted by it."),
    Column("score", "score", 3, "what the reward model gives a response. It is what is trained on, and a proxy of "
           "what is wanted."),
    Column("gold_score", "gold score", 3, "what a judge that is never trained on gives the same response. Where the "
           "score rises and the gold score does not, the algorithm exploits the reward model."),
    Column("kl", "KL", 2, "how far the policy moved from the reference, the untouched model: the Kullback-Leibler "
           "divergence of the policy from it, in nats a response."),
    Column("normalized", "normalized", 3, "on tasks whose optimum is known: 0 is the reference's objective, 1 the "
           "optimum's. It is the exact value of a policy, where the objective is a mean of samples, so these tables "
           "are sorted by it. (Only best_of_n, which is no policy, has it from samples.)"),
    Column("success", "success", 3, "the share of episodes that the turn environment calls solved."),
    Column("turns", "turns", 2, "that the policy took in an episode."),
    Column("turn_length", "tokens/turn", 1, "that the policy wrote, end of turn included."),
    Column("length", "length", 1, "tokens of a response, its end-of-sequence token included; over all turns, where "
           "there are several."),
    Column("distinct_1", "distinct-1", 3, "different tokens / all tokens of all responses. Low values are repetition, "
           "within responses or between them."),
    Column("distinct_2", "distinct-2", 3, "the same of pairs of neighbouring tokens."),
    Column("tokens", "tokens", 0, "generated in training, samples that were thrown away included. A run ends with a "
           "whole rollout, so it can be more than the budget.", cost=True),
    Column("train_seconds", "seconds", 1, "of training, without loading and without the evaluation.", cost=True),
    Column("tokens_per_second", "tokens/s", 0, "generated tokens by seconds of training.", cost=True),
    Column("peak_memory_mib", "peak MiB", 0, "the most memory that the run's process held, in MiB, libraries "
           "included.", cost=True),
)  # fmt: skip
_MUST_BE_FINITE = ("score", "kl", "objective", "gold_score", "normalized")


@dataclass(frozen=True)
class Failure:
    """A cell that gave no result. It counts in no mean."""

    task: str
    algorithm: str
    seed: int
    error: str


@dataclass(frozen=True)
class AlgorithmRow:
    """The runs of an algorithm on a task.

    label: its name, with what sets it apart from other runs of the same algorithm. settings, env: those of its lines.
    lines: of the seeds that finished, in the order of their seeds. estimates: of each column that the lines have.
    """

    label: str
    name: str
    settings: Mapping[str, Any]
    env: Mapping[str, Any]
    lines: tuple[Line, ...]
    failures: tuple[Failure, ...]
    estimates: Mapping[str, IntervalEstimate]

    def values(self, key: str) -> list[float]:
        """Return the column's value of each seed that has one."""
        return [value for line in self.lines if (value := _value(line, key)) is not None]

    def by_seed(self, key: str) -> dict[int, float]:
        """Return seed -> the column's value, for the seeds that have one."""
        return {line["seed"]: value for line in self.lines if (value := _value(line, key)) is not None}


@dataclass(frozen=True)
class TaskTable:
    """A task and its algorithms: the highest mean of `measure` first, those without a result last.

    measure: key of the column that they are sorted by: "normalized" where the optimum is known, else "objective".
    prompts: which ones were answered, such as "held-out prompts"; "" where nothing says so.
    """

    label: str
    name: str
    rows: tuple[AlgorithmRow, ...]
    measure: str = "objective"
    prompts: str = ""

    @property
    def finished(self) -> list[AlgorithmRow]:
        """The rows that have a result."""
        return [row for row in self.rows if row.lines]

    def columns(self, *, cost: bool) -> list[Column]:
        """Return the columns that any row has: of what training cost, or of the policy that it gave."""
        return [
            column
            for column in COLUMNS
            if column.cost is cost and any(column.key in row.estimates for row in self.rows)
        ]

    def row(self, label: str) -> AlgorithmRow | None:
        """Return the row of that label; None where it has no result."""
        return next((row for row in self.finished if row.label == label), None)


def task_tables(lines: Sequence[Line]) -> tuple[TaskTable, ...]:
    """Make a table of each task, from the last line of each cell. Tasks whose settings differ are different tasks."""
    return tuple(_table(label, group) for label, group in _groups(lines, _title, _problem).items())


def _title(line: Line) -> str:
    """What was asked and judged: the task's name, except where prompts or reward were not the task's own."""
    return str(line.get("title") or line["task"])


def _problem(line: Line) -> dict[str, Any]:
    """What sets two tasks of the same name apart."""
    return {**(line.get("env") or {}), "eval_episodes": line.get("eval_episodes")}


def _method(line: Line) -> dict[str, Any]:
    """What sets two algorithms of the same name apart."""
    return {**(line.get("settings") or {}), "budget": line.get("budget")}


def _groups(
    lines: Iterable[Line], name_of: Callable[[Line], str], parameters: Callable[[Line], dict[str, Any]]
) -> dict[str, list[Line]]:
    """Group lines by name. Where lines of one name differ in a parameter, the label tells it: `ppo (ent_coef=0.1)`."""
    by_name: dict[str, list[Line]] = {}
    for line in lines:
        by_name.setdefault(name_of(line), []).append(line)
    groups: dict[str, list[Line]] = {}
    for name, members in by_name.items():
        texts = [
            {k: json.dumps(v, sort_keys=True, default=str) for k, v in parameters(line).items()} for line in members
        ]
        names = sorted({k for text in texts for k in text})
        differing = [k for k in names if len({text.get(k) for text in texts}) > 1]
        for line, text in zip(members, texts, strict=True):
            suffix = ", ".join(f"{k}={text[k]}" for k in differing if k in text)
            groups.setdefault(f"{name} ({suffix})" if suffix else name, []).append(line)
    return groups


def _table(label: str, lines: list[Line]) -> TaskTable:
    rows = [
        _row(label, name, group) for name, group in _groups(lines, lambda line: str(line["algorithm"]), _method).items()
    ]
    is_known = any("normalized" in row.estimates for row in rows if row.name != REFERENCE)
    measure = "normalized" if is_known else "objective"

    def place(row: AlgorithmRow) -> tuple[float, ...]:
        return tuple(-row.estimates[key].value if key in row.estimates else math.inf for key in (measure, "objective"))

    splits = dict.fromkeys(str(line["split"]) for line in lines if line.get("split"))
    prompts = " and ".join(LABELS.get(split, split) for split in splits)
    return TaskTable(label, _title(lines[0]), tuple(sorted(rows, key=place)), measure, prompts)


def _row(task: str, label: str, lines: list[Line]) -> AlgorithmRow:
    lines = sorted(lines, key=lambda line: line["seed"])
    errors = [(line, _error(line)) for line in lines]
    done = tuple(line for line, error in errors if error is None)
    failures = tuple(Failure(task, label, line["seed"], error) for line, error in errors if error is not None)
    estimates = {}
    for column in COLUMNS:
        values = [value for line in done if (value := _value(line, column.key)) is not None]
        if values:
            estimates[column.key] = IntervalEstimate.of(values)
    settings = {"budget": lines[0].get("budget"), **(lines[0].get("settings") or {})}
    return AlgorithmRow(
        label, str(lines[0]["algorithm"]), settings, lines[0].get("env") or {}, done, failures, estimates
    )


def _error(line: Line) -> str | None:
    """Why the line is no result; None where it is one. A run that diverged has numbers that no mean can hold."""
    if line["status"] != "done":
        return str(line.get("error") or f"status {line['status']!r}")
    metrics = line.get("metrics") or {}
    for name in _MUST_BE_FINITE:
        needed = name in metrics or name in ("score", "kl", "objective")
        if needed and _value(line, name) is None:
            return f"the run finished, but its {name} is {shown(metrics.get(name))} and no finite number"
    return None


def finite_number(value: Any) -> float | None:
    """Return `value` as a float; None where it is no number, not finite, or an integer beyond the range of floats."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def _value(line: Line, key: str) -> float | None:
    return finite_number((line.get("metrics") or {}).get(key, line.get(key)))
