"""The figures of a benchmark report, as PNG bytes. An algorithm looks the same in all of them."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from textrl_agents.benchmark.report.across_tasks import TaskComparison
from textrl_agents.benchmark.report.task_tables import REFERENCE, TaskTable, finite_number
from textrl_agents.reports.blocks import DPI
from textrl_agents.reports.statistics import IntervalEstimate
from textrl_agents.training.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours without those that are too pale on white, and some dark ones. Contrast on white is at least 3.
# In simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009) any two stay a CIE76 distance of 16 apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#332288", "#7A3E00", "#5A5A5A")
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X", ">", "p", "h")
INK, FAINT = "#222222", "#B0B0B0"
_LABEL_LENGTH = 30


class Style(NamedTuple):
    """How an algorithm is drawn. No two look the same of `len(COLORS) * len(LINE_STYLES)` algorithms."""

    color: str
    marker: str
    line: Any


class LabelledPoint(NamedTuple):
    """An algorithm's place in a figure, with its name."""

    label: str
    x: IntervalEstimate
    y: IntervalEstimate


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """Give each label a look, by its place. The reference is black and dash-dotted at any place."""
    result = {}
    for index, label in enumerate(label for label in labels if label != REFERENCE):
        line = LINE_STYLES[index // len(COLORS) % len(LINE_STYLES)]
        result[label] = Style(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], line)
    if REFERENCE in labels:
        result[REFERENCE] = Style("#000000", "*", (0, (6, 2, 1, 2)))
    return result


def learning_curves(table: TaskTable, looks: Mapping[str, Style]) -> bytes | None:
    """Draw the score in training against generated tokens: the mean over seeds, and a band from lowest to highest.

    None where no run has a curve.
    """
    curves = {row.label: curve for row in table.finished if (curve := _mean_curve([*row.lines])) is not None}
    if not curves:
        return None
    figure = _figure(8.6, 4.2)
    axes = _axes(figure, "generated tokens", "score in training")
    for label, (tokens, low, mean, high) in curves.items():
        look = looks[label]
        axes.fill_between(tokens, low, high, color=look.color, alpha=0.13, linewidth=0)
        every = max(1, len(tokens) // 8)
        axes.plot(tokens, mean, color=look.color, linestyle=look.line, linewidth=1.7, marker=look.marker,
                  markersize=4.5, markevery=every)  # fmt: skip
    zero = next((row.estimates["score"].value for row in table.finished if row.name == REFERENCE), None)
    if zero is not None:
        axes.axhline(zero, color="#000000", linestyle=(0, (6, 2, 1, 2)), linewidth=1)
    shown = [label for label in looks if label in curves or (label == REFERENCE and zero is not None)]
    axes.set_xlim(left=0)
    _thousands(axes)
    _legend(figure, shown, looks)
    return _png(figure)


def frontier(table: TaskTable, looks: Mapping[str, Style]) -> bytes | None:
    """Draw score, and gold score where there is one, against the KL: a point an algorithm, with 95% intervals."""
    measures = [key for key in ("score", "gold_score") if any(key in row.estimates for row in table.finished)]
    if not table.finished:
        return None
    # Many points need wide panels, below each other.
    count, crowded = len(measures), len(table.finished) > 10
    figure = _figure(8.6, 4.8 * count) if crowded else _figure(5.2 * count if count > 1 else 7.0, 4.6)
    panels = []
    for place, key in enumerate(measures, 1):
        grid = (count, 1, place) if crowded else (1, count, place)
        axes = _axes(figure, "KL from the reference (nats a response)", "", grid)
        axes.set_title({"score": "score", "gold_score": "gold score"}[key], fontsize=10, loc="left")
        rows = [row for row in table.finished if key in row.estimates]
        for row in rows:
            look, x, y = looks[row.label], row.estimates["kl"], row.estimates[key]
            _, _, bars = axes.errorbar(x.value, y.value, xerr=_reach(x), yerr=_reach(y), color=look.color,
                                       marker=look.marker, markersize=6.5, linestyle="none")  # fmt: skip
            for bar in bars:
                bar.set(alpha=0.4, linewidth=1)
        # Labels stand beside their points, so there must be room at the sides.
        axes.margins(x=0.12, y=0.12)
        panels.append((axes, [LabelledPoint(row.label, row.estimates["kl"], row.estimates[key]) for row in rows]))
    # Labels are placed in pixels, so the axes must not move any more.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, points in panels:
        _label_points(axes, points, looks)
    return _png(figure)


def iqm_intervals(comparison: TaskComparison, looks: Mapping[str, Style]) -> bytes | None:
    """Draw the interquartile means of the normalised scores, the best on top. None where there are none."""
    ranked = sorted(comparison.iqm, key=lambda label: comparison.iqm[label].value)
    if not ranked:
        return None
    figure = _figure(7.2, 0.9 + 0.3 * len(ranked))
    axes = _axes(figure, "interquartile mean of the normalised score", "")
    for height, label in enumerate(ranked):
        look, estimate = looks[label], comparison.iqm[label]
        if estimate.interval is not None:
            axes.plot(estimate.interval, [height] * 2, color=look.color, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot([estimate.value], [height], color=look.color, marker=look.marker, markersize=7, linestyle="none")
    for value in (0, 1):
        axes.axvline(value, color=FAINT, linewidth=1, linestyle=":", zorder=0)
    axes.set_yticks(range(len(ranked)), [_short(label) for label in ranked], parse_math=False)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    return _png(figure)


def performance_profiles(comparison: TaskComparison, looks: Mapping[str, Style]) -> bytes | None:
    """Draw the share of runs whose normalised score is above each threshold, with pointwise intervals."""
    if not comparison.profiles:
        return None
    figure = _figure(8.6, 4.2)
    axes = _axes(figure, "normalised score threshold", "share of runs above it")
    for label, profile in comparison.profiles.items():
        look = looks[label]
        axes.plot(comparison.taus, profile, color=look.color, linestyle=look.line, linewidth=1.7, marker=look.marker,
                  markersize=4.5, markevery=25, drawstyle="steps-post")  # fmt: skip
        if label in comparison.profile_intervals:
            low, high = comparison.profile_intervals[label]
            axes.fill_between(comparison.taus, low, high, color=look.color, alpha=0.08, linewidth=0, step="post")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(comparison.taus[0], comparison.taus[-1])
    _legend(figure, [label for label in looks if label in comparison.profiles], looks)
    return _png(figure)


def _mean_curve(lines: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Return (tokens, lowest, mean, highest) of the score over seeds, at every point in the range that all cover."""
    seeds = []
    for line in lines:
        points = [(point.get("tokens"), point.get("score")) for point in line.get("curve") or []]
        found = [(x, y) for x, y in points if finite_number(x) is not None and finite_number(y) is not None]
        if found:
            seeds.append(np.array(sorted(found), dtype=np.float64).T)  # [2, points]
    if not seeds:
        return None
    start, end = max(tokens[0] for tokens, _ in seeds), min(tokens[-1] for tokens, _ in seeds)
    grid = np.unique(np.concatenate([tokens for tokens, _ in seeds]))
    grid = grid[(grid >= start) & (grid <= end)]
    if not len(grid):
        return None
    values = np.stack([np.interp(grid, tokens, scores) for tokens, scores in seeds])
    return grid, values.min(axis=0), values.mean(axis=0), values.max(axis=0)


def _ends(estimate: IntervalEstimate) -> tuple[float, float]:
    return estimate.interval or (estimate.value, estimate.value)


def _reach(estimate: IntervalEstimate) -> list[list[float]] | None:
    """Return an error bar's two lengths, [2, 1]."""
    if estimate.interval is None:
        return None
    return [[estimate.value - estimate.interval[0]], [estimate.interval[1] - estimate.value]]


def _figure(width: float, height: float) -> Figure:
    """Make a figure without pyplot, which has global state and looks for a display."""
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, x_label: str, y_label: str, place: tuple[int, int, int] = (1, 1, 1)) -> Axes:
    axes = figure.add_subplot(*place)
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _thousands(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.locator_params(axis="x", nbins=8)


def _short(label: str) -> str:
    """Cut a long name, which would push the axes aside, and escape half a surrogate pair, which cannot be drawn."""
    label = label.encode("utf-8", "backslashreplace").decode("utf-8")
    return label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…"


def _legend(figure: Figure, labels: Sequence[str], looks: Mapping[str, Style]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=looks[label].color, linestyle=looks[label].line, marker=looks[label].marker, markersize=4.5
        )
        for label in labels
    ]
    legend = figure.legend(handles, ["-"] * len(handles), loc="outside right upper", fontsize=8.5, frameon=False,
                           handlelength=3.2)  # fmt: skip
    # The texts are set afterwards: `legend` would take a `$` or a leading `_` in a name as markup.
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(_short(label))


def _label_points(axes: Axes, points: Sequence[LabelledPoint], looks: Mapping[str, Style]) -> None:
    """Write each point's label where it covers least, near the point if possible, and draw a line to it."""
    unit = DPI / 72  # pixels in a typographic point
    inside = np.array(axes.get_window_extent().extents)
    places = axes.transData.transform([(point.x.value, point.y.value) for point in points])
    taken = [_box(place, (10 * unit, 10 * unit)) for place in places]  # what a label should not cover
    for point, (x, y) in zip(points, places, strict=True):  # error bars
        (left, low), (right, high) = axes.transData.transform(list(zip(_ends(point.x), _ends(point.y), strict=True)))
        taken += [np.array([left, y - unit, right, y + unit]), np.array([x - unit, low, x + unit, high])]
    for point, place in zip(points, places, strict=True):
        at = (point.x.value, point.y.value)
        note = axes.annotate(_short(point.label), at, xytext=(0, 0), textcoords="offset points", fontsize=8.5,
                             color=INK, ha="center", va="center", parse_math=False)  # fmt: skip
        size = np.array(note.get_window_extent().size)
        candidates = []
        for distance, angle in itertools.product((6, 11, 18, 27, 38, 52, 70), np.radians(np.arange(0, 360, 15))):
            # From the point to the middle of the label, whose near side is about `distance` points away.
            offset = np.array([math.cos(angle), math.sin(angle)]) * (distance * unit + size / 2)
            box = _box(place + offset, size)
            covered = _overlap(box, np.stack(taken)).sum() + size.prod() - _overlap(box, inside)
            candidates.append((distance + covered, offset, box))
        _, offset, box = min(candidates, key=lambda candidate: candidate[0])
        note.set_position((offset[0] / unit, offset[1] / unit))
        taken.append(box)
        end = (np.clip(place, box[:2], box[2:]) - place) / unit
        axes.annotate("", at, xytext=end, textcoords="offset points",
                      arrowprops={"arrowstyle": "-", "color": looks[point.label].color, "linewidth": 0.8,
                                  "shrinkA": 0, "shrinkB": 0})  # fmt: skip


def _box(middle: Any, size: Any) -> np.ndarray:
    """Return the corners [x0, y0, x1, y1] of a box of a size around its middle."""
    half = np.asarray(size) / 2
    return np.concatenate([middle - half, middle + half])


def _overlap(box: np.ndarray, others: np.ndarray) -> Any:
    """Return the area, in square pixels, that `box` [4] shares with each of `others` [..., 4]."""
    sides = np.minimum(box[2:], others[..., 2:]) - np.maximum(box[:2], others[..., :2])
    return np.clip(sides, 0, None).prod(axis=-1)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
