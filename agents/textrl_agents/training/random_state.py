"""The state of every random generator that training draws from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Start Python's generator, NumPy's global one and torch's from `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of Python, of NumPy's global generator, and of torch on the CPU and each GPU.

    It holds tensors, arrays, numbers and lists only.
    """
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": {"keys": np.asarray(keys, dtype=np.int64), "rest": [int(position), int(has_gauss), float(gauss)]},
        "torch": torch.get_rng_state(),
        "cuda": list(cuda),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    numpy_state = state["numpy"]
    np.random.set_state(("MT19937", numpy_state["keys"].astype(np.uint32), *numpy_state["rest"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        # Only the GPUs that are here: a run that moves to a machine with fewer goes on, though not bit by bit.
        for index, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state, index)


@contextlib.contextmanager
def own_generator(seed: int) -> Iterator[None]:
    """Draw from torch's generators as `seed` sets them, and leave them as they were."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        yield
