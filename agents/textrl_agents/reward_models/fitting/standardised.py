"""Features on a scale that one penalty fits, and the way back to features as they come."""

from __future__ import annotations

from typing import Any

import numpy as np

from textrl_agents.reward_models.judgements import Judgements


class Standardised:
    """Features of responses for a fit.

    features: [responses, size], an array or a SciPy CSR matrix. Columns of an array get mean 0 and deviation 1 over the
    responses that were judged; those that never change get 0. Of a sparse matrix, whose rows are counts of length 1,
    the columns that no judged response has are left out and the others stay as they are.

    rows: the features to fit to, [responses, n].
    """

    def __init__(self, features: Any, judgements: Judgements):
        self._size = features.shape[1]
        judged = features[judgements.places]
        if hasattr(features, "tocsr"):
            self._columns = np.unique(judged.indices)
            self._mean, self._scale = np.zeros(len(self._columns)), np.ones(len(self._columns))
            self.rows = features[:, self._columns]
            return
        self._columns = np.arange(self._size)
        self._mean, deviation = judged.mean(axis=0), judged.std(axis=0)
        self._scale = np.where(deviation > 1e-8, deviation, np.inf)
        self.rows = (features - self._mean) / self._scale

    def back(self, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights [heads, size] and bias [heads] for features as they come, from [heads, n] and [heads] for `rows`."""
        found = np.zeros((len(weights), self._size))
        found[:, self._columns] = weights / self._scale
        return found, bias - found[:, self._columns] @ self._mean
