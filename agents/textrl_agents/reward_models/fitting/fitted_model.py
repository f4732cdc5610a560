"""What the training of one model gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class FittedModel:
    """A trained model, in memory.

    scores: float64 [n], logits of the conversations that it was asked for. save: writes it into a folder that is there.
    """

    scores: np.ndarray
    save: Callable[[Path], None]
