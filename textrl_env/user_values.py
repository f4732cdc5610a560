"""Plain values that a user gives, checked before torch is imported: devices, number types, seeds, paths."""

from __future__ import annotations

import math
import numbers
import sys
from pathlib import Path
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown

DEVICE_KINDS = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPE_NAMES = ("auto", "float32", "bfloat16", "float16")


def check_device_name(device: Any) -> None:
    """Raise ConfigError unless `device` is a text, and UnknownName unless torch has a kind of device by that name.

    Does not look whether this machine has the device.
    """
    if not isinstance(device, str):
        raise ConfigError(f"device must be a name, such as 'auto', 'cpu' or 'cuda:1', got {shown(device)}")
    if device.partition(":")[0] not in DEVICE_KINDS:
        raise UnknownName("device", device, DEVICE_KINDS)


def check_dtype_name(dtype: Any) -> None:
    """Raise ConfigError unless `dtype` is a text, and UnknownName unless it is one of `DTYPE_NAMES`."""
    if not isinstance(dtype, str):
        raise ConfigError(f"dtype must be one of {', '.join(DTYPE_NAMES)}, got {shown(dtype)}")
    if dtype not in DTYPE_NAMES:
        raise UnknownName("dtype", dtype, DTYPE_NAMES)


def check_seed(seed: Any) -> int | None:
    """A seed as Gymnasium takes it: None, or any whole number >= 0, however large. Raises ConfigError."""
    if seed is None:
        return None
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed must be a whole number >= 0, got {seed!r}")
    return int(seed)


def user_path(path: str | Path) -> Path:
    """`path` with `~` as a home folder; nothing need be there.

    Raises ConfigError for what is no path, or for one that the system cannot have, such as thousands of characters.
    """
    try:
        expanded = Path(path).expanduser()
        expanded.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: `~name` of nobody
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{shown(str(path) if isinstance(path, Path) else path)} cannot be used as a path: {reason}"
        ) from error
    return expanded


def whole_number(name: str, value: Any) -> int:
    """`value` as an int. Raises ConfigError, which calls it `name`, unless it is a number >= 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value < math.inf:
        raise ConfigError(f"{name} must be a whole number >= 1, got {shown(value)}")
    return int(value)


def finite_number(name: str, value: Any) -> float:
    """`value` as a float. Raises ConfigError, which calls it `name`, unless it is a finite real number."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not abs(value) <= sys.float_info.max:
        raise ConfigError(f"{name} must be a finite number, got {shown(value)}")
    return float(value)
