"""Plain values that a user gives, checked before torch is imported: names, numbers, seeds, devices, dtypes, paths."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown

DEVICE_KINDS = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPE_NAMES = ("auto", "float32", "bfloat16", "float16")
PRECISION_NAMES = ("auto", "float32", "bfloat16")
DECODERS = ("slots", "ahead")
POOLINGS = ("response", "all", "last")  # of hidden states
# NumPy's generators, which SB3 and RLlib seed, take no larger number.
LARGEST_SEED = 2**32 - 1


def check_names(kind: str, names: Iterable[Any], known: Collection[str]) -> None:
    """Raise UnknownName for the first of `names` that is not `known`. kind: what each of them names."""
    for name in names:
        if name not in known:
            raise UnknownName(kind, name, known)


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
    check_names("dtype", [dtype], DTYPE_NAMES)


def check_precision_name(precision: Any) -> None:
    """Raise ConfigError unless `precision` is a text, and UnknownName unless it is one of `PRECISION_NAMES`."""
    if not isinstance(precision, str):
        raise ConfigError(f"precision must be one of {', '.join(PRECISION_NAMES)}, got {shown(precision)}")
    if precision == "float16":
        raise ConfigError(
            "precision must be one of auto, float32, bfloat16, got 'float16': its gradients underflow without a scaled "
            "loss, which no stock update has. Use 'bfloat16'"
        )
    check_names("precision", [precision], PRECISION_NAMES)


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise ConfigError unless `value` is a whole number in [least, most]."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and <= {most}"
        raise ConfigError(f"{name} must be a whole number >= {least}{upper}, got {shown(value)}")


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
    raise ConfigError(f"{name} must be {wanted}, got {shown(value)}")


def check_seed(seed: Any, most: int | None = None) -> int | None:
    """A seed as Gymnasium takes it: None, or a whole number >= 0, however large without `most`. Raises ConfigError."""
    if seed is None:
        return None
    check_whole("seed", seed, 0, most)
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
    """`value` as an int. Raises ConfigError, which calls it `name`, unless it is a whole number >= 1."""
    check_whole(name, value, 1)
    return int(value)


def finite_number(name: str, value: Any) -> float:
    """`value` as a float. Raises ConfigError, which calls it `name`, unless it is a finite number."""
    check_number(name, value)
    return float(value)
