"""A mean with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NORMAL_95 = 1.959964  # two-sided 95% quantile of the standard normal distribution


class Statistic(NamedTuple):
    """The mean of independent samples and its 95% interval, by the normal approximation."""

    mean: float
    std: float  # of one sample, with n - 1 in the denominator
    half_width: float  # the interval is mean +- half_width
    samples: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Statistic:
        """Of at least two samples."""
        array = np.asarray(values, dtype=np.float64)
        std = float(array.std(ddof=1))
        return cls(float(array.mean()), std, NORMAL_95 * std / math.sqrt(len(array)), len(array))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the mean."""
        return self.mean - self.half_width, self.mean + self.half_width

    def to_json(self) -> dict[str, float | int | list[float]]:
        """Numbers and lists only."""
        return {"mean": self.mean, "std": self.std, "ci95": list(self.interval), "samples": self.samples}

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half_width:.3f}"
