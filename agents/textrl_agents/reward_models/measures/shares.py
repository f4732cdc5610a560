"""The share of judgements that a model gets right, with its 95% interval where prompts have several judgements each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054  # of a 95% interval


@dataclass(frozen=True)
class Share:
    """A share of `count` judgements, and its 95% interval."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.count}"


def share_of(right: np.ndarray, prompts: Sequence[str]) -> Share | None:
    """The mean of `right` ([n]: 0, 1, or 0.5 for a draw) with Wilson's interval; None where there is nothing.

    Judgements of one prompt are not independent. Wilson's formula (1927, https://doi.org/10.2307/2276774) therefore
    gets the effective number of judgements p (1 - p) / v, where v is the variance of the mean over whole prompts (the
    ratio estimator), and at most as many as there are. Where all are right or all wrong, v says nothing: then it is the
    number of prompts.
    """
    values = right.astype(np.float64)
    if len(values) == 0:
        return None
    share = float(values.mean())
    place_of = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    inverse, clusters = [place_of[prompt] for prompt in prompts], len(place_of)
    effective = float(clusters)
    if 0 < share < 1 and clusters > 1:
        deviations = np.bincount(inverse, weights=values - share)  # of each prompt's sum from its expectation
        variance = clusters / (clusters - 1) * float((deviations**2).sum()) / len(values) ** 2
        most = float(len(values))
        effective = min(most, share * (1 - share) / variance) if variance > 0 else most
    centre = (share + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z / (1 + Z**2 / effective) * np.sqrt(share * (1 - share) / effective + Z**2 / (4 * effective**2))
    return Share(share, max(0.0, centre - float(half)), min(1.0, centre + float(half)), len(values))
