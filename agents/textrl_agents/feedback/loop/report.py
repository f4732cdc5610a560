"""The report of a loop: proxy and gold against the square root of the KL, round by round, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textrl_agents.evaluation.evaluation import Statistic
from textrl_agents.feedback.loop.folder import LoopFolder
from textrl_agents.feedback.loop.measuring import GOLD, KL, PROXY, RoundResult
from textrl_agents.runs.atomic import write_atomically
from textrl_agents.runs.logs import markdown_cell, markdown_row

COLUMNS = (
    *("round", "reward model", "KL", "sqrt(KL)", "proxy, start", "proxy", "gold, start", "gold", "gold gained"),
    "tokens",
)
_TEXT = """\
# A loop of human feedback on {task}

{asked} Each round trained a reward model on all votes so far, and PPO against it, from where the round before ended.
The model that the loop started from and each round's answered the same {split}; means with 95% intervals. KL is from
the start, in nats a response. The proxy is the reward model of the round: 0 is the mean, and 1 a standard deviation, of
its scores of the start's responses. Under "reward model" stands the share of the annotators' consensus on prompts held
out from it that it predicts.

{table}

![proxy and gold against sqrt(KL)]({figure})

## Samples

{samples}
"""


def write_report(folder: LoopFolder, rounds: Sequence[RoundResult]) -> None:
    """Write `report.md` and `report.png`."""
    settings = folder.settings
    if settings.ask == "simulated":
        rates = ", ".join(f"{rate:.0%}" for rate in settings.error_rates)
        asked = f"{settings.comparisons} comparisons a round, by simulated annotators who err in {rates} of the cases."
    else:
        asked = f"{settings.comparisons} comparisons a round, by people."
    plot_rounds(rounds, folder.figure)
    text = _TEXT.format(
        task=markdown_cell(settings.task),
        asked=asked,
        split=rounds[-1].split,
        table="\n".join(_table(COLUMNS, [table_row(one) for one in rounds])),
        figure=folder.figure.name,
        samples="\n".join(_samples(rounds)),
    )
    write_atomically(folder.report, text)


def table_row(one: RoundResult) -> list[str]:
    """A round's row under `COLUMNS`; what a task without gold score lacks is empty."""
    gold = [str(values[GOLD]) if GOLD in values else "" for values in (one.start, one.end)]
    gained = one.gain.get(GOLD)
    return [
        str(one.number),
        "" if one.accuracy is None else "{value:.2f} [{low:.2f}, {high:.2f}]".format(**one.accuracy),
        str(one.end[KL]),
        f"{one.distance:.2f}",
        str(one.start[PROXY]),
        str(one.end[PROXY]),
        *gold,
        "" if gained is None else f"{gained.mean:+.3f} ± {gained.half_width:.3f}",
        str(one.end["length"]),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [markdown_row(columns), markdown_row(["---"] * len(columns)), *map(markdown_row, rows)]


def _samples(rounds: Sequence[RoundResult]) -> list[str]:
    columns = ["prompt", "start", *(f"round {one.number}" for one in rounds)]
    rows = [
        [first["prompt"], first["start"], *(one.samples[place]["end"] for one in rounds)]
        for place, first in enumerate(rounds[0].samples)
    ]
    return _table(columns, [[markdown_cell(text) for text in row] for row in rows])


def plot_rounds(rounds: Sequence[RoundResult], path: Path) -> None:
    """Draw a line from the start to each round's policy: its own proxy on the left, the gold score on the right."""
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(PROXY, "proxy: each round's reward model")]
    if all(GOLD in one.end for one in rounds):
        panels.append((GOLD, "gold score"))
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (measure, title) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for one in rounds:
            values: list[Statistic] = [one.start[measure], one.end[measure]]
            axes.errorbar(
                [0.0, one.distance],
                [value.mean for value in values],
                yerr=[value.half_width for value in values],
                marker="o",
                markersize=4,
                capsize=3,
                label=f"round {one.number}",
            )
        axes.set_xlabel("sqrt(KL from the start), KL in nats a response")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    fresh = path.with_name(f".{path.name}.writing.png")
    figure.savefig(fresh, dpi=120)
    fresh.replace(path)
