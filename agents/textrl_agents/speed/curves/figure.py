"""The cost curves as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textrl_agents.speed.curves.points import Curve, Point
from textrl_agents.training.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# curve -> (label of the axis, the field of a point that it shows)
AXES = {
    "model size": ("parameters", "parameters"),
    "rows": ("rows sampled at once", "rows"),
    "response length": ("tokens of a response", "tokens"),
}
SERIES = (("update", "#c44e00", "s"), ("rollout", "#1f4e79", "o"))


def plot_curves(curves: Sequence[Curve], points: Sequence[Point], path: Path, *, title: str) -> None:
    """Draw a panel for each of `curves`: the time of a token, measured and the least that the peaks allow."""
    require("matplotlib")
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(curves), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(curves), sharey=True, squeeze=False)
    for curve, axes in zip(curves, panels[0], strict=True):
        _panel(axes, curve, [point for point in points if point.curve == curve.name])
    panels[0][0].set_ylabel("time of a token")
    lines, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, curve: Curve, points: Sequence[Point]) -> None:
    from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

    label, field = AXES[curve.name]
    places = [getattr(point, field) for point in points]
    for name, color, marker in SERIES:
        measured = [1e-6 * getattr(point, name) for point in points]  # seconds, which the axis gives a prefix
        bound = [1e-6 * getattr(point, f"{name}_bound") for point in points]
        axes.plot(places, measured, color=color, marker=marker, markersize=5, label=f"{name}, measured")
        axes.plot(places, bound, color=color, linestyle=":", linewidth=1.2, label=f"{name}, roofline")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.set_title(f"{curve.name}\n({curve.fixed})", fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
