"""What a device reaches on the two things that bound a model: products of matrices, and reading memory.

A roofline is the larger of operations / peak and bytes / bandwidth (Williams, Waterman and Patterson 2009,
doi:10.1145/1498765.1498785). Both peaks are measured here, in the process and with the threads that the model gets, so
a share of the roofline is a share of what this machine really does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch.nn import functional

from textrl_agents.speed.measurement import Work, speed

ROWS = 1024  # tokens that a matrix is multiplied by: a minibatch
CPU_COPY = 256 * 2**20  # bytes at least, more than most caches hold
CUDA_COPY = 2**30
LARGEST_COPY = 2**30


class Peaks(NamedTuple):
    """What a device reached."""

    flops: float  # operations a second, of products in the model's type and shapes
    bandwidth: float  # bytes a second, read and written

    def seconds(self, flops: float, read: float = 0.0) -> float:
        """The roofline of work with so many operations that reads so many bytes."""
        return max(flops / self.flops, read / self.bandwidth)


def measure_peaks(
    shapes: Iterable[tuple[int, int]],
    dtype: torch.dtype,
    device: torch.device,
    *,
    repeats: int = 3,
    rows: int = ROWS,
    copied: int | None = None,
) -> Peaks:
    """Measure both, each the best of `repeats` after one that is not counted.

    shapes: (out, in) of a model's matrices. rows: of what they are multiplied by. copied: bytes; None for a size that
        the caches do not hold.
    """
    return Peaks(
        _product_speed(Counter(shapes), dtype, device, repeats, rows),
        _copy_speed(copied or copy_bytes(device), device, repeats),
    )


def _product_speed(
    shapes: Counter[tuple[int, int]], dtype: torch.dtype, device: torch.device, repeats: int, rows: int
) -> float:
    """Operations a second of one product with each matrix of the model."""
    flops, seconds = 0.0, 0.0
    for (outputs, inputs), count in shapes.items():
        matrix = torch.randn(outputs, inputs, device=device).to(dtype)
        states = torch.randn(rows, inputs, device=device).to(dtype)
        each = 2 * rows * inputs * outputs

        def multiply(states: torch.Tensor = states, matrix: torch.Tensor = matrix, each: int = each) -> int:
            functional.linear(states, matrix)
            return each

        flops += count * each
        seconds += count * each / _best(multiply, device, repeats)
    return flops / seconds


def _copy_speed(size: int, device: torch.device, repeats: int) -> float:
    """Bytes a second of a copy; each byte is read once and written once."""
    source = torch.zeros(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def copy() -> int:
        target.copy_(source)
        return 2 * source.nbytes

    return _best(copy, device, repeats)


@torch.no_grad()
def _best(work: Work, device: torch.device, repeats: int) -> float:
    return max([speed(work, device) for _ in range(repeats + 1)][1:])


def copy_bytes(device: torch.device) -> int:
    """Four times the last cache, between `CPU_COPY` (on a GPU `CUDA_COPY`) and `LARGEST_COPY` bytes."""
    if device.type != "cpu":
        return CUDA_COPY
    try:
        cache = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        cache = 0
    return min(max(CPU_COPY, 4 * cache), LARGEST_COPY)
