"""The functional forms of Gao et al. 2023 (https://arxiv.org/abs/2210.10760), fitted, and where gold turns down.

With d = sqrt(KL) and gold measured from its start, in nats and units of the gold score:

    best-of-n   gold(d) = d (alpha - beta d)
    RL          gold(d) = d (alpha - beta log d)

Both are linear in alpha and beta, so least squares has one answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from textrl_env.errors import ConfigError

Form = Literal["best_of_n", "rl"]
FORMULAS: dict[Form, str] = {"best_of_n": "d (alpha - beta d)", "rl": "d (alpha - beta log d)"}


@dataclass(frozen=True)
class Fit:
    """A form with its coefficients. r_squared: share of the gold's variance over the points that it explains.

    It is NaN where gold is the same at all points.
    """

    form: Form
    alpha: float
    beta: float
    r_squared: float
    points: int

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """Gold above its start at d = sqrt(KL), float64 [n]."""
        values: np.ndarray = _columns(self.form, distance) @ np.array([self.alpha, self.beta])
        return values

    @property
    def peak(self) -> float:
        """The d > 0 at which gold is highest; infinite where it never turns down, 0 where it never rises."""
        if self.beta <= 0:
            return math.inf
        if self.form == "best_of_n":
            return max(0.0, self.alpha / (2 * self.beta))
        exponent = self.alpha / self.beta - 1
        return math.exp(exponent) if exponent < 700 else math.inf

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is None."""
        numbers = {"alpha": self.alpha, "beta": self.beta, "r_squared": self.r_squared, "peak": self.peak}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {"form": self.form, "formula": FORMULAS[self.form], **finite, "points": self.points}


def fit_form(form: Form, distance: np.ndarray, gold: np.ndarray) -> Fit:
    """Fit a form by least squares. distance: sqrt(KL) >= 0, float [n]. gold: above its start, float [n].

    Raises ConfigError unless two points lie at different distances above 0: there the form is 0, whatever it is.
    """
    distance, gold = np.asarray(distance, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if len(np.unique(distance[distance > 0])) < 2:
        raise ConfigError(f"a fit of {FORMULAS[form]} needs two different distances above 0, got {distance.tolist()}")
    columns = _columns(form, distance)
    (alpha, beta), *_ = np.linalg.lstsq(columns, gold, rcond=None)
    residual = float(np.square(gold - columns @ [alpha, beta]).sum())
    total = float(np.square(gold - gold.mean()).sum())
    return Fit(form, float(alpha), float(beta), 1 - residual / total if total > 0 else math.nan, len(distance))


def _columns(form: Form, distance: np.ndarray) -> np.ndarray:
    """What alpha and beta are multiplied by, float64 [n, 2]. d log d tends to 0 with d."""
    distance = np.asarray(distance, dtype=np.float64)
    if form == "best_of_n":
        return np.stack([distance, -np.square(distance)], axis=1)
    logarithms = np.log(np.where(distance > 0, distance, 1.0))
    return np.stack([distance, -distance * logarithms], axis=1)
