"""`curve.png`: score, gold score and KL of a run against the tokens it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textrl_agents.runs.logs import STEP
from textrl_agents.runs.run_evaluations import metric
from textrl_agents.training.extras import require
from textrl_env.text.prompt_splits import LABELS

# (axis label, metric of a rollout, measure of an evaluation)
PANELS = (
    ("score", "objective/scores", "score"),
    ("gold score", "objective/gold_scores", "gold_score"),
    ("KL from the reference\n(nats per response)", "objective/kl", "kl"),
)
ROLLOUT_COLOR = "#9db8d2"
EVALUATIONS = {  # split -> (colour, marker)
    "train": ("#5a5a5a", "^"),
    "validation": ("#1f4e79", "o"),
    "heldout": ("#c44e00", "D"),
}


def plot_run(lines: Sequence[dict[str, Any]], path: str | Path, *, title: str = "") -> bool:
    """Draw the panels for which `lines` (of metrics.jsonl) hold values; return False where they hold none.

    Training rollouts are a pale line. Evaluations are points with their 95% intervals, each split in its own colour.
    """
    panels = [
        panel
        for panel in PANELS
        if any(name in line for line in lines for name in (panel[1], *(metric(s, panel[2]) for s in EVALUATIONS)))
    ]
    if not panels:
        return False
    require("matplotlib")
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (label, rollout, measure) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        steps, values, _ = _series(lines, rollout)
        if steps:
            axes.plot(steps, values, color=ROLLOUT_COLOR, linewidth=1.2, label="training rollouts")
        for split, (color, marker) in EVALUATIONS.items():
            steps, values, widths = _series(lines, metric(split, measure))
            if steps:
                axes.errorbar(
                    steps, values, yerr=widths, color=color, marker=marker, markersize=4, capsize=3,
                    linestyle="none" if split == "heldout" else "-", label=f"{LABELS[split]}, 95%",
                )  # fmt: skip
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


def _series(lines: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float], list[float]]:
    """Return (tokens, values, half-widths) of the lines that have the metric."""
    found = [line for line in lines if isinstance(line.get(name), (int, float))]
    return (
        [line[STEP] for line in found],
        [line[name] for line in found],
        [line.get(f"{name}_ci95") or 0.0 for line in found],
    )
