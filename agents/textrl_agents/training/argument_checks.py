"""Checks of the numbers that training is given, before anything is loaded."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Mapping
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown

# NumPy's generators, which both libraries seed, take no larger number.
LARGEST_SEED = 2**32 - 1


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise ConfigError unless `value` is a whole number in [least, most]."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and <= {most}"
        raise ConfigError(f"{name} must be a whole number >= {least}{upper}, got {_shown(value)}")


def check_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: bool = False
) -> None:
    """Raise ConfigError unless `value` is a finite number in [least, most]; in (least, most] where `above`."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # Not math.isfinite, which an integer of too many digits overflows.
    if is_number and abs(value) <= sys.float_info.max and least <= value <= most and not (above and value == least):
        return
    if math.isfinite(most):
        wanted = f"a number between {least:g} and {most:g}"
    elif math.isfinite(least):
        wanted = f"a finite number {'>' if above else '>='} {least:g}"
    else:
        wanted = "a finite number"
    raise ConfigError(f"{name} must be {wanted}, got {_shown(value)}")


def check_seed(seed: Any) -> None:
    """Raise ConfigError unless `seed` is None or fits every generator that is seeded with it."""
    if seed is not None:
        check_whole("seed", seed, 0, LARGEST_SEED)


def check_learning_rate(name: str, value: Any) -> None:
    """Raise ConfigError for a number below 0. None, mappings, callables and lists are left to those who take them."""
    if value is None or isinstance(value, (Mapping, list, tuple)) or callable(value):
        return
    check_number(name, value, 0)


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**20:
        return f"a number of {value.bit_length()} bits"  # which Python may refuse to print
    return shown(value)
