"""Best-of-n without sampling anew for every n: unbiased estimates from one set of N candidates a prompt.

Nakano et al. 2021 (https://arxiv.org/abs/2112.09332, section 3.3): the expectation over all subsets of n of the N
candidates is a weighted sum over candidates in the order of the proxy. The k-th lowest is the best of a subset where
the other n - 1 are among the k - 1 below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n from the policy that it samples from, nats a response: log n - (n - 1) / n.

    The formula of Stiennon et al. 2020 and Gao et al. 2023; an upper bound where responses have equal scores.
    """
    return math.log(n) - (n - 1) / n


def selection_probabilities(n: int, candidates: int) -> np.ndarray:
    """Probability that the k-th lowest of the candidates is the best of a uniformly drawn subset of n. float64 [N].

    C(k - 1, n - 1) / C(N, n), by logarithms of the gamma function, since the binomials overflow. 1 <= n <= N.
    """
    from scipy.special import gammaln

    below = np.arange(candidates, dtype=np.float64)  # k - 1 candidates are lower
    possible = below >= n - 1
    others = np.where(possible, below - (n - 1), 0.0)
    ways = gammaln(below + 1) - gammaln(n) - gammaln(others + 1)
    subsets = gammaln(candidates + 1) - gammaln(n + 1) - gammaln(candidates - n + 1)
    probabilities: np.ndarray = np.where(possible, np.exp(ways - subsets), 0.0)
    return probabilities


def best_of_n_values(proxy: np.ndarray, values: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Expected value of the response that the proxy likes best among n, for each prompt and each n.

    proxy, values: float [prompts, N], of the same candidates; `values` is the gold score, or the proxy itself.
    counts: the n's, each at most N. Returns float64 [prompts, len(counts)].

    Where candidates have equal proxy scores, each of them is as likely to be taken: their values are averaged.
    """
    weights = np.stack([selection_probabilities(n, proxy.shape[1]) for n in counts], axis=1)  # (N, counts)
    return np.stack([_in_order(row, value) @ weights for row, value in zip(proxy, values, strict=True)])


def _in_order(proxy: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values in rising order of the proxy; the mean of those that it cannot tell apart. float64 [N]."""
    _, place, tied = np.unique(proxy, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=values) / tied
    ordered: np.ndarray = np.repeat(means, tied)
    return ordered
