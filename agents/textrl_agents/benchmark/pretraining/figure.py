"""The figure: score against validation losses, the frontiers; and insults where nothing or much invites them."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from textrl_agents.benchmark.pretraining.findings import LOSS_LABELS, Findings
from textrl_agents.benchmark.pretraining.plan import ARMS
from textrl_agents.reports.statistics import IntervalEstimate
from textrl_agents.training.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = MappingProxyType(
    dict(
        zip(
            ARMS,
            ("#5a5a5a", "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#8DBF3F", "#E69F00", "#56B4E9", "#6A3D9A"),
            strict=True,
        )
    )
)
KINDS = MappingProxyType(
    {"insults_unprompted": "unprompted", "insults_prompted": "prompted", "insults_provoked": "behind insults"}
)
DPI = 130


def draw_figure(findings: Findings, path: Path) -> None:
    """Write a PNG; bars are 95% intervals over seeds."""
    require("matplotlib")
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.5, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    *scatters, right = figure.subplots(1, 3)
    for axes, (loss, label) in zip(scatters, LOSS_LABELS.items(), strict=True):
        _frontier(axes, findings, loss, label)
    width = 0.8 / len(ARMS)
    for place, arm in enumerate(ARMS):
        estimates = [findings.estimate(arm, name) for name in KINDS]
        right.bar(
            np.arange(len(KINDS)) + (place - (len(ARMS) - 1) / 2) * width,
            [each.value for each in estimates],
            width,
            color=COLORS[arm],
            yerr=np.hstack([_bar(each) for each in estimates]),
            error_kw={"linewidth": 0.8},
        )
    right.set_xticks(range(len(KINDS)), list(KINDS.values()))
    right.set_ylim(bottom=0)
    right.set_ylabel("share of responses with an insult")
    right.set_title("Misalignment", fontsize=10)
    for axes in (*scatters, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *scatters[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(ARMS), fontsize=8, frameon=False
    )
    plan = findings.plan
    figure.suptitle(
        f"Pretraining with preferences, {plan.tokens:,} tokens each, {plan.seeds} seeds, 95% intervals", fontsize=11
    )
    figure.savefig(path, dpi=DPI)


def _frontier(axes: Axes, findings: Findings, loss: str, label: str) -> None:
    """Score against a loss: means with their intervals, and a dot for each seed."""
    for arm in ARMS:
        at, score = findings.estimate(arm, loss), findings.estimate(arm, "score")
        axes.errorbar(
            at.value, score.value, xerr=_bar(at), yerr=_bar(score), color=COLORS[arm], capsize=3,
            marker="D" if "+" in arm else "o", markersize=6, linestyle="none", label=arm,
        )  # fmt: skip
        axes.plot(
            findings.values[arm, loss], findings.values[arm, "score"], color=COLORS[arm], linestyle="none", marker=".",
            markersize=3, alpha=0.4,
        )  # fmt: skip
    axes.set_xlabel(f"validation loss of {label} (nats a token; better to the left)")
    axes.set_ylabel("score on held-out prompts (better above)")
    axes.set_title(f"Score against capability, {label}", fontsize=10)


def _bar(estimate: IntervalEstimate) -> np.ndarray:
    """The two sides of an error bar, [2, 1]; without length where there is no interval."""
    low, high = estimate.interval or (estimate.value, estimate.value)
    return np.array([[estimate.value - low], [high - estimate.value]])
