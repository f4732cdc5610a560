"""Names of devices and of number types, checked before torch is imported."""

from __future__ import annotations

from typing import Any

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown

DEVICE_KINDS = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPE_NAMES = ("auto", "float32", "bfloat16", "float16")


def check_device_name(device: Any) -> None:
    """Raise ConfigError for what is no text, UnknownName for one that no device of torch is called.

    Whether it is there is not asked.
    """
    if not isinstance(device, str):
        raise ConfigError(f"device must be a name, such as 'auto', 'cpu' or 'cuda:1', got {shown(device)}")
    if device.partition(":")[0] not in DEVICE_KINDS:
        raise UnknownName("device", device, DEVICE_KINDS)


def check_dtype_name(dtype: Any) -> None:
    """Raise ConfigError for what is no text, UnknownName for one that is none of `DTYPE_NAMES`."""
    if not isinstance(dtype, str):
        raise ConfigError(f"dtype must be one of {', '.join(DTYPE_NAMES)}, got {shown(dtype)}")
    if dtype not in DTYPE_NAMES:
        raise UnknownName("dtype", dtype, DTYPE_NAMES)
