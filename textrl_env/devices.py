"""Names of devices and of number types, checked before torch is imported."""

from __future__ import annotations

from typing import Any

from textrl_env.errors import UnknownName

DEVICE_KINDS = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPE_NAMES = ("auto", "float32", "bfloat16", "float16")


def check_device_name(device: Any) -> None:
    """Raise UnknownName for a text that no device of torch is called; whether it is there is not asked."""
    if isinstance(device, str) and device.partition(":")[0] not in DEVICE_KINDS:
        raise UnknownName("device", device, DEVICE_KINDS)


def check_dtype_name(dtype: Any) -> None:
    """Raise UnknownName for a text that is none of `DTYPE_NAMES`."""
    if isinstance(dtype, str) and dtype not in DTYPE_NAMES:
        raise UnknownName("dtype", dtype, DTYPE_NAMES)
