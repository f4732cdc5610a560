"""Where a result comes from: versions, the machine, and the memory that this process held."""

from __future__ import annotations

import functools
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

PACKAGES = (
    *("textrl-env", "torch", "transformers", "gymnasium", "numpy"),
    *("stable-baselines3", "sb3-contrib", "ray", "trl"),
)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that a result depends on, where they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return `cpu` (its model), `cores` (that this process may use), `gpu` (its name, or None) and `python`."""
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
    }


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_bytes(field: Literal["VmRSS", "VmHWM"]) -> int | None:
    """Return the memory that this process holds (VmRSS), or the most that it held (VmHWM), its libraries included.

    Outside Linux it is always the most that was held. None on Windows, where Python cannot tell.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: Linux hands its peak down from the parent process through exec.
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
