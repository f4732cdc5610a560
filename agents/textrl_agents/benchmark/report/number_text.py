"""How tables and sentences show the numbers of a results file."""

from __future__ import annotations

import sys
from typing import Any

from textrl_agents.benchmark.report.statistics import IntervalEstimate

NO_VALUE = "-"


def finite_number(value: Any) -> float | None:
    """Return `value` as a float; None where it is no number, not finite, or an integer beyond the range of floats."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def number_text(value: float, digits: int) -> str:
    """Write a number as `1,234.50`, for two digits after the point."""
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # rounding first keeps -0.00 away


def mean_text(estimate: IntervalEstimate | None, digits: int) -> str:
    """Write `0.98 ± 0.02`, mean and half of the interval's width; the mean alone where there were too few seeds."""
    if estimate is None:
        return NO_VALUE
    mean = number_text(estimate.value, digits)
    if estimate.interval is None:
        return mean
    return f"{mean} ± {number_text((estimate.interval[1] - estimate.interval[0]) / 2, digits)}"


def range_text(estimate: IntervalEstimate, digits: int) -> str:
    """Write `0.98 [0.96, 0.99]`; the value alone where there were too few seeds."""
    value = number_text(estimate.value, digits)
    if estimate.interval is None:
        return value
    return f"{value} [{', '.join(number_text(bound, digits) for bound in estimate.interval)}]"


def counted(count: int, noun: str) -> str:
    """Write `1 seed`, `2 seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
