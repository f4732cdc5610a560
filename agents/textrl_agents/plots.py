"""`curve.png`: score, gold score and KL of a run against the tokens it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textrl_agents.extras import require
from textrl_agents.metrics_file import STEP

# (axis label, metric of a rollout, metric of an evaluation)
PANELS = (
    ("score", "objective/scores", "eval/score"),
    ("gold score", "objective/gold_scores", "eval/gold_score"),
    ("KL from the reference\n(nats per response)", "objective/kl", "eval/kl"),
)
ROLLOUT_COLOR, EVAL_COLOR = "#9db8d2", "#1f4e79"


def plot_run(lines: Sequence[dict[str, Any]], path: str | Path, *, title: str = "") -> bool:
    """Draw the panels for which `lines` (of metrics.jsonl) hold values; False where they hold none.

    Training rollouts are a pale line, held-out evaluations points with their 95% intervals.
    """
    panels = [panel for panel in PANELS if any(metric in line for line in lines for metric in panel[1:])]
    if not panels:
        return False
    require("matplotlib")
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (label, rollout, evaluation) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        steps, values, _ = _series(lines, rollout)
        if steps:
            axes.plot(steps, values, color=ROLLOUT_COLOR, linewidth=1.2, label="training rollouts")
        steps, values, widths = _series(lines, evaluation)
        if steps:
            axes.errorbar(
                steps, values, yerr=widths, color=EVAL_COLOR, marker="o", markersize=4, capsize=3, label="held-out, 95%"
            )
        axes.set_xlabel("generated tokens")
        axes.set_title(label, fontsize=10)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="x", nbins=6)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if index == 0:
            axes.legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    figure.savefig(Path(path), dpi=120)
    return True


def _series(lines: Sequence[dict[str, Any]], metric: str) -> tuple[list[int], list[float], list[float]]:
    """(tokens, values, half-widths) of the lines that have the metric."""
    found = [line for line in lines if isinstance(line.get(metric), (int, float))]
    return (
        [line[STEP] for line in found],
        [line[metric] for line in found],
        [line.get(f"{metric}_ci95") or 0.0 for line in found],
    )
