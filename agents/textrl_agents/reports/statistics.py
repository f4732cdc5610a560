"""What a few runs can tell: interval estimates for scores of several seeds on several tasks.

Definitions are those of Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice"
(https://arxiv.org/abs/2108.13264), and of its library rliable. Scores are float arrays [runs, tasks]; runs are seeds.
Intervals of aggregates are percentiles of a stratified bootstrap: tasks are the strata, and each task's runs are drawn
anew on their own, since run 0 of one task has nothing to do with run 0 of another.

With few runs such intervals are too narrow: n values that are drawn anew have (n - 1) / n of their variance. With
three runs on three tasks a nominal 95% is about 85%. `mean_interval`, for one task alone, does not have this fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from textrl_env.errors import ConfigError
from textrl_env.user_values import check_whole

MIN_SEEDS = 3  # below, an interval says more about the method than about the algorithm
REPETITIONS = 10_000
_BATCH_VALUES = 2_000_000  # values held at a time: 16 MB

# Takes resampled scores [B, runs, tasks] of each sample; returns [B, ...].
ResampledStatistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class IntervalEstimate:
    """A value over `seeds` seeds and its 95% interval, which is None below `MIN_SEEDS` seeds.

    It may rest on three values, so the normal approximation of `evaluation.Statistic`, which has hundreds of samples of
    one run, will not do.
    """

    value: float
    interval: tuple[float, float] | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> IntervalEstimate:
        """Estimate the mean, with Student's t interval."""
        interval = mean_interval(values) if len(values) >= MIN_SEEDS else None
        return cls(float(np.mean(values)), interval, len(values))

    def overlaps(self, other: IntervalEstimate) -> bool:
        """Whether the intervals share a point. True where one is not known."""
        if self.interval is None or other.interval is None:
            return True
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean of the middle half of all scores, runs of all tasks together.

    A quarter of them, rounded down, is dropped at each end, as by `scipy.stats.trim_mean(scores, 0.25)`.
    """
    return float(iqms(_finite(scores, "scores").reshape(1, -1, 1))[0])


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Return P(X > Y): the share of all pairs of a run of x and a run of y in which x is above y; ties count half.

    It is the mean over tasks of the Mann-Whitney U statistic divided by the number of pairs. x [runs_x, tasks],
    y [runs_y, tasks]; tasks in the same order.
    """
    x, y = _pair(x, y)
    return float(_improvement(x[None], y[None])[0])


def improvement_interval(
    x: ArrayLike,
    y: ArrayLike,
    *,
    rng: np.random.Generator | int,
    repetitions: int = REPETITIONS,
) -> tuple[float, float]:
    """Return the interval of `probability_of_improvement`; runs of x and of y are drawn independently."""
    x, y = _pair(x, y)
    low, high = bootstrap_interval(_improvement, x, y, rng=rng, repetitions=repetitions, in_pairs=True)
    return float(low), float(high)


def performance_profile(scores: ArrayLike, taus: ArrayLike) -> np.ndarray:
    """Return the share of all runs on all tasks whose score is above each tau, float64 [len(taus)]."""
    profile: np.ndarray = profiles(_matrix(scores, "scores")[None], _thresholds(taus))[0]
    return profile


def bootstrap_interval(
    statistic: ResampledStatistic,
    *samples: ArrayLike,
    rng: np.random.Generator | int,
    repetitions: int = REPETITIONS,
    confidence: float = 0.95,
    in_pairs: bool = False,
) -> np.ndarray:
    """Return the percentile interval of `statistic(*samples)` by a stratified bootstrap. float64 [2, ...].

    samples: each [runs, tasks]; they may differ in their runs, and are drawn independently.
    rng: a generator, or the seed of one.
    in_pairs: whether the statistic computes a value for each pair of runs of two samples, so that fewer repetitions
        fit into memory at a time.
    The statistic may be NaN for a draw in which it has no value. Such draws do not count.
    """
    if not samples:
        raise ConfigError("bootstrap_interval needs at least one array of scores [runs, tasks]")
    arrays = [_matrix(sample, "scores") for sample in samples]
    check_whole("repetitions", repetitions, 1)
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, such as 0.95; got {confidence!r}")
    rng = np.random.default_rng(rng)
    held = math.prod(map(len, arrays)) if in_pairs else sum(map(len, arrays))
    batch = max(1, _BATCH_VALUES // (held * arrays[0].shape[1]))
    drawn = []
    for start in range(0, int(repetitions), batch):
        count = min(batch, int(repetitions) - start)
        drawn.append(statistic(*[_resample(array, count, rng) for array in arrays]))
    tail = (1 - confidence) / 2
    interval: np.ndarray = np.nanquantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    return interval


def mean_interval(values: ArrayLike) -> tuple[float, float]:
    """Return Student's 95% interval of the mean of at least two independent values; exact where they are normal."""
    array = _finite(values, "values").reshape(-1)
    if len(array) < 2:
        raise ConfigError(f"an interval needs at least two values, got {len(array)}")
    quantile = student_t_quantile(len(array) - 1)
    half_width = quantile * float(array.std(ddof=1)) / math.sqrt(len(array))
    return float(array.mean()) - half_width, float(array.mean()) + half_width


def prediction_interval(values: ArrayLike) -> tuple[float, float]:
    """Return where one more value falls in 95% of cases, of at least two independent normal values.

    mean ± t s sqrt(1 + 1/n): Student's t for the difference between a new value and the mean of n.
    """
    array = _finite(values, "values").reshape(-1)
    low, high = mean_interval(array)
    half_width = (high - low) / 2 * math.sqrt(len(array) + 1)  # t s sqrt(1/n), times sqrt(n + 1)
    return float(array.mean()) - half_width, float(array.mean()) + half_width


def student_t_quantile(degrees: int, confidence: float = 0.95) -> float:
    """Return t with P(|T| <= t) = confidence, for Student's distribution with a whole number of degrees of freedom."""
    if degrees < 1:
        raise ConfigError(f"degrees of freedom must be at least 1, got {degrees!r}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, such as 0.95; got {confidence!r}")
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(degrees))
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _student_t_mass(angle, degrees) < confidence else (low, angle)
    return math.tan(low) * math.sqrt(degrees)


def iqms(drawn: np.ndarray) -> np.ndarray:
    """Return the interquartile mean of each draw: [B, runs, tasks] -> [B]. NaN where a draw holds one."""
    pooled = np.sort(drawn.reshape(len(drawn), -1), axis=1)
    cut = pooled.shape[1] // 4
    means = pooled[:, cut : pooled.shape[1] - cut].mean(axis=1)
    return np.where(np.isnan(pooled[:, -1]), np.nan, means)  # NaNs are sorted last


def profiles(drawn: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """Return the share of scores above each threshold: [B, runs, tasks], [n] -> [B, n]. NaN where a draw holds one.

    The scores are sorted once, so that memory does not grow with the number of thresholds.
    """
    pooled = np.sort(drawn.reshape(len(drawn), -1), axis=1)
    shares = np.stack([1 - np.searchsorted(row, taus, side="right") / pooled.shape[1] for row in pooled])
    return np.where(np.isnan(pooled[:, -1:]), np.nan, shares)


def normalize(scores: ArrayLike, zero: float, one: float) -> np.ndarray:
    """Put scores on the scale where `zero` is 0 and `one` is 1. Raises ConfigError where `one` is not above `zero`."""
    if not (math.isfinite(zero) and math.isfinite(one) and one > zero):
        raise ConfigError(f"normalising needs finite bounds with one > zero, got zero={zero!r} and one={one!r}")
    return (_finite(scores, "scores") - zero) / (one - zero)


def _student_t_mass(angle: float, degrees: int) -> float:
    """P(|T| <= t) at t = sqrt(degrees) * tan(angle): Abramowitz & Stegun 1964, 26.7.3 and 26.7.4."""
    cosine, odd = math.cos(angle), degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def _improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[B, runs_x, tasks], [B, runs_y, tasks] -> [B]."""
    difference = x[:, :, None, :] - y[:, None, :, :]
    shares: np.ndarray = ((np.sign(difference) + 1) / 2).mean(axis=(1, 2, 3))
    return shares


def _resample(scores: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[runs, tasks] -> [count, runs, tasks]: within each task, as many runs with replacement."""
    runs, tasks = scores.shape
    return np.take_along_axis(scores[None], rng.integers(runs, size=(count, runs, tasks)), axis=1)


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = _matrix(x, "x"), _matrix(y, "y")
    if x.shape[1] != y.shape[1]:
        raise ConfigError(f"x and y must be about the same tasks: x has {x.shape[1]} of them, y {y.shape[1]}")
    return x, y


def _thresholds(taus: ArrayLike) -> np.ndarray:
    array = _finite(taus, "taus")
    if array.ndim != 1:
        raise ConfigError(f"taus must be a list of thresholds, got an array of shape {array.shape}")
    return array


def _matrix(scores: ArrayLike, name: str) -> np.ndarray:
    array = _finite(scores, name)
    if array.ndim != 2:
        raise ConfigError(f"{name} must be an array [runs, tasks], got one of shape {array.shape}")
    return array


def _finite(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} must be a rectangular array of numbers, with as many runs for each task: {error}"
        ) from error
    if array.size == 0:
        raise ConfigError(f"{name} must hold at least one number, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ConfigError(f"{name} must be finite, but {count} of {array.size} are NaN or infinite; drop those runs")
    return array
