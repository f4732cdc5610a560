"""Packed sequences whose last tokens are actions, as those of one turn are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textrl_env.models import PackedEpisodes, pack
from textrl_env.trajectory import Trajectory


def pack_suffixes(sequences: Sequence[np.ndarray], first_actions: Sequence[int], device: str = "cpu") -> PackedEpisodes:
    """Pack sequences of ids whose tokens from `first_actions[i]` on are actions."""
    return pack(
        [Trajectory.of_response(ids[:first], ids[first:]) for ids, first in zip(sequences, first_actions, strict=True)],
        device,
    )
