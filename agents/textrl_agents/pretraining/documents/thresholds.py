"""The score from which a document or a piece of it counts as good."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textrl_env.errors import ConfigError


def threshold_of(scores: Sequence[float], *, threshold: float | None, quantile: float | None, scored: str) -> float:
    """What is at least this is good. Some of the scores are, and some are not.

    threshold: the answer, where it is given. quantile: else the answer is this quantile of the scores; with neither it
        is their mean. scored: what has these scores, for the message: "sentences".

    Raises ConfigError where it does not separate them, as where all scores are equal.
    """
    array = np.asarray(scores, dtype=np.float64)
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise ConfigError(
            f"all {len(array):,} {scored} have the score {low:g}, so no threshold separates good from bad; use another "
            "reward or corpus, or the objective mle, which asks for none"
        )
    if threshold is None:
        threshold = float(np.mean(array) if quantile is None else np.quantile(array, quantile))
    good = int((array >= threshold).sum())
    if not 0 < good < len(array):
        raise ConfigError(
            f"the threshold {threshold:g} calls {good:,} of {len(array):,} {scored} good, so it separates nothing. "
            f"Their scores lie between {low:g} and {high:g}, with a mean of {array.mean():g}: choose one between them"
        )
    return threshold
