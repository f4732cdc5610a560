"""Whether the probability that a model gives its choice is the share of its choices that are right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textrl_agents.training.extras import require

BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """The choices whose probability lies in a bin: their mean probability, the share that is right, their number."""

    probability: float
    right: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """bins: those that hold a choice. error: the expected calibration error, in [0, 1]."""

    bins: tuple[CalibrationBin, ...]
    error: float


def calibration_of(leads: np.ndarray, *, bins: int = BINS) -> Calibration | None:
    """The calibration of decided pairs; None where there is none.

    leads: float [n], score of the better response less that of the worse one, in logits, so that Bradley-Terry's
    probability of the judgement is sigmoid(lead). The model's choice is the response that it scores higher, with
    probability sigmoid(|lead|) in [0.5, 1], which `bins` bins of equal width divide. The error is the mean over choices
    of |share right - mean probability| of their bin (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3).
    """
    if len(leads) == 0:
        return None
    probability = 1 / (1 + np.exp(-np.abs(leads)))
    right = np.where(leads == 0, 0.5, leads > 0)
    place = np.minimum(((probability - 0.5) * 2 * bins).astype(int), bins - 1)
    filled = [
        CalibrationBin(float(probability[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(bins)
        if (place == b).any()
    ]
    error = sum(each.count * abs(each.right - each.probability) for each in filled) / len(leads)
    return Calibration(tuple(filled), float(error))


def plot_calibration(calibration: Calibration, path: Path, *, title: str = "") -> None:
    """Draw the share right against the probability; a point's area is its number of choices."""
    require("matplotlib")
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0.5, 1], [0.5, 1], color="#9a9a9a", linewidth=1, linestyle="--", label="as it should be")
    counts = np.array([each.count for each in calibration.bins])
    axes.plot([b.probability for b in calibration.bins], [b.right for b in calibration.bins], color="#1f4e79")
    axes.scatter(
        [b.probability for b in calibration.bins],
        [b.right for b in calibration.bins],
        s=20 + 180 * counts / counts.max(),
        color="#1f4e79",
        label="held-out pairs",
    )
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("probability that the model gives its choice")
    axes.set_ylabel("share of its choices that are right")
    axes.set_title(title or f"expected calibration error {calibration.error:.3f}", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
