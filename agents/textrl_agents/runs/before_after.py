"""What training has changed, measured on the same prompts before and after, with bootstrap intervals over items.

Prompts that ask about the same item are answered alike, so the items are drawn anew and not the prompts or responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from textrl_agents.evaluation import Evaluation, paired_difference
from textrl_agents.evaluation.evaluation import MEASURES
from textrl_agents.reports.statistics import bootstrap_interval
from textrl_env.foreign_text import visible
from textrl_env.rewards import RepetitionReward
from textrl_env.tasks.splits import split_rows
from textrl_env.tasks.task import Task
from textrl_env.text.prompt_rows import PromptText
from textrl_env.text.prompt_splits import prompt_item
from textrl_env.trajectory import Trajectory

SHOWN = {"score": "score", "gold_score": "gold score", "kl": "KL (nats)", "length": "tokens"}
REPEATED = "repeats (%)"
_PAIRS = RepetitionReward(2)


@dataclass(frozen=True)
class Estimate:
    """A mean over all responses and its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.low > 0

    def __str__(self) -> str:
        digits = 1 if max(abs(self.low), abs(self.high)) >= 10 else 2  # three of them and a name fit in 80 columns
        mean, low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


@dataclass(frozen=True)
class Change:
    """One measure before and after training, and their difference, taken response by response."""

    before: Estimate
    after: Estimate
    difference: Estimate


def changes(before: Evaluation, after: Evaluation, task: Task) -> dict[str, Change]:
    """Each measure that is shown -> its change. Repetition is the share of a response's word pairs that are repeats.

    before, after: of the same held-out (or training) prompts of `task`, with the same seed. Raises ConfigError where
    they answer other prompts.
    """
    paired_difference(before, after)  # refuses what cannot be paired
    items = _items(before, task)
    measures = {label: MEASURES[name] for name, label in SHOWN.items() if name in before.statistics}
    measures[REPEATED] = _repeated
    return {label: _change(measure, before, after, items) for label, measure in measures.items()}


def change_table(before: Evaluation, after: Evaluation, found: dict[str, Change]) -> Table:
    """The changes, and distinct-2 of all responses beside them: low where they have become one phrase."""
    title = f"{visible(after.task)}: {len(after.episodes)} responses to {after.prompts}; means and 95% intervals"
    table = Table(title=Text(title), box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in ("before", "after", "paired difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for label, change in found.items():
        table.add_row(label, str(change.before), str(change.after), str(change.difference))
    table.add_row("distinct-2", f"{before.distinct_2:.2f}", f"{after.distinct_2:.2f}", "")
    return table


def _items(evaluation: Evaluation, task: Task) -> list[str]:
    """The item that each response is about. A task's text may have been asked as a chat, so the last message counts.

    An episode of a turn environment is about its seed, which no other one has but by chance.
    """
    if task.turns is not None:
        return [str(episode.group) for episode in evaluation.episodes]
    about = task.item or prompt_item
    rows = split_rows(task, evaluation.split) or ()
    known = {_asked(text): about({"prompt": text, **columns}) for text, columns in rows}
    return [str(known[_asked(episode.prompt)]) for episode in evaluation.episodes]


def _asked(prompt: PromptText) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _repeated(episode: Trajectory) -> float:
    return -100 * _PAIRS([episode.prompt], [episode.response])[0]


def _change(
    measure: Callable[[Trajectory], float | None], before: Evaluation, after: Evaluation, items: Sequence[str]
) -> Change:
    first, second = (np.array([measure(episode) for episode in each.episodes], float) for each in (before, after))
    return Change(*(_estimate(values, items) for values in (first, second, second - first)))


def _estimate(values: np.ndarray, items: Sequence[str]) -> Estimate:
    """Draw whole items: the sums and counts of those that are drawn give the mean of their responses."""
    names, place = np.unique(items, return_inverse=True)
    sums, counts = np.bincount(place, weights=values), np.bincount(place)

    def mean(drawn: np.ndarray) -> np.ndarray:  # drawn: float [B, items, 1], places of items
        chosen = drawn[:, :, 0].astype(int)
        means: np.ndarray = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
        return means

    low, high = bootstrap_interval(mean, np.arange(len(names))[:, None], rng=0)
    return Estimate(float(values.mean()), float(low), float(high))
