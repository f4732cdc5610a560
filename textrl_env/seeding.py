"""Seeds and random generators."""

from __future__ import annotations

from typing import Any

import numpy as np

from textrl_env.errors import ConfigError


def check_seed(seed: Any) -> int | None:
    """A seed as Gymnasium takes it: None, or any whole number >= 0, however large. Raises ConfigError."""
    if seed is None:
        return None
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed must be a whole number >= 0, got {seed!r}")
    return int(seed)


def restored_generator(state: dict[str, Any]) -> np.random.Generator:
    """A generator of the saved state's own kind: `reset(seed=...)` and a constructor may make different ones."""
    generator = np.random.Generator(getattr(np.random, state["bit_generator"])())
    generator.bit_generator.state = state
    return generator
