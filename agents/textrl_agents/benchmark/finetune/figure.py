"""The figure: what agents have learned after so many segments, and the rates of the schedules."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from textrl_agents.benchmark.finetune.findings import Findings, Learned
from textrl_agents.reports.blocks import DPI
from textrl_agents.reports.statistics import MIN_SEEDS, mean_interval
from textrl_agents.training.extras import require
from textrl_env.finetune.schedules import scheduled_rates

LABELS = {
    "q_learning": "Q-learning, table",
    "sarsa": "SARSA, table",
    "dqn": "DQN (SB3)",
    "ppo": "PPO (SB3)",
    "a2c": "A2C (SB3)",
    "rllib_ppo": "PPO (RLlib)",
    "random_search": "random search",
}
COLORS = dict(zip(LABELS, ("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#8DBF3F", "#888888"), strict=True))
BASELINES = {
    "constant": (":", "best constant rate"),
    "linear": ("--", "linear decay"),
    "cosine": ("-.", "cosine decay"),
}


def draw_figure(findings: Findings) -> bytes:
    """Return a PNG: on the left shares of the best schedule with 95% bands, on the right learning rates."""
    require("matplotlib")
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = findings.plan.data[0]
    tree = findings.trees[data]
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for each in findings.learned:
        if each.data == data:
            _curve(left, each)
    for name, (style, label) in BASELINES.items():
        left.axhline(findings.baseline(data, name), color="black", linestyle=style, linewidth=1, label=label)
    left.axhline(1.0, color="black", linewidth=1.2, label="best schedule")
    total = sum(len(level) for level in tree.levels[1:])
    if total <= findings.plan.segments:  # else it would leave the curves no room
        left.axvline(total, color="#999999", linewidth=1.2, zorder=0, label=f"all schedules tried: {total:,}")
    left.set_xlabel("segments trained")
    left.set_ylabel("gain, as a share of the best schedule's")
    left.set_ylim(*_limits(findings, data))
    left.set_title(f"learned on {data}, {findings.plan.seeds} seeds, 95%", fontsize=10)
    left.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4)

    segments = np.arange(1, tree.segments + 1)
    for name, (style, label) in BASELINES.items():
        rates = scheduled_rates(name, tree.best_baseline(name)[0], tree.segments)
        right.plot(segments, rates, style, color="black", linewidth=1, label=label)
    for agent in findings.tables[:1]:
        for number, actions in enumerate(findings.of(agent, data).actions):
            named = {} if number else {"label": f"{LABELS[agent]}, each seed"}
            right.plot(segments, tree.rates(actions), color=COLORS[agent], linewidth=1, alpha=0.5, **named)
    right.plot(segments, tree.rates(tree.best().actions), color="black", linewidth=2, marker="o", label="best schedule")
    right.axhline(tree.settings["learning_rate"], color="#bbbbbb", linewidth=1, zorder=0, label="rate of the start")
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter("{x:.1e}")
    right.set_xticks(segments)
    right.set_xlabel("segment")
    right.set_title(f"learning rate, {data}", fontsize=10)
    right.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    return drawn.getvalue()


def _curve(axes: Any, each: Learned) -> None:
    color = COLORS[each.agent]
    axes.plot(each.segments, each.curve.mean(axis=0), color=color, linewidth=1.6, label=LABELS[each.agent])
    if len(each.shares) >= MIN_SEEDS:
        low, high = np.transpose([mean_interval(values) for values in each.curve.T])
        axes.fill_between(each.segments, low, high, color=color, alpha=0.15, linewidth=0)


def _limits(findings: Findings, data: str) -> tuple[float, float]:
    """From a little below what matters, so that the early noise of one agent does not flatten the rest."""
    finals = [each.share.value for each in findings.learned if each.data == data]
    lowest = min([*finals, findings.baseline(data, "constant")])
    return max(-0.2, lowest - 0.25), 1.04
