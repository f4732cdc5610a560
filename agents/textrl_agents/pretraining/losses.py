"""The losses of single tokens in the objectives of Korbak et al. 2023, "Pretraining Language Models with Human
Preferences" (https://arxiv.org/abs/2302.08582, section 2).

Symbols: p is the model's probability of a token, R the score of the piece that the token is in, V what the value head
expects the piece to score, from the tokens before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

MOST_WEIGHT = 20.0  # of a token in AWR, as in Peng et al. 2019 (https://arxiv.org/abs/1910.00177), appendix A
_ALMOST_1 = 1 - 1e-6


class Tokens(NamedTuple):
    """M tokens that are learned, each float32 [M] or bool [M]."""

    log_probs: torch.Tensor  # nats
    scores: torch.Tensor
    good: torch.Tensor  # bool: whether the piece that the token is in reaches the threshold
    values: torch.Tensor | None  # V; None where the objective has no value head


class Weights(NamedTuple):
    """alpha, beta: of the objective. log_scale: of RWR, log of the mean of exp(R / beta) over the corpus's tokens."""

    alpha: float
    beta: float
    log_scale: float = 0.0


def mle(tokens: Tokens, weights: Weights) -> torch.Tensor:
    """-log p: maximum likelihood. Also of the documents that filtering keeps, and of text with control tokens."""
    return -tokens.log_probs


def unlikelihood(tokens: Tokens, weights: Weights) -> torch.Tensor:
    """-log p in good pieces, -alpha log(1 - p) in bad ones: Welleck et al. 2020 (https://arxiv.org/abs/1908.04319).

    A token that the model is sure of has a finite loss: p counts as at most 1 - 1e-6.
    """
    unlikely = -torch.log1p(-tokens.log_probs.exp().clamp(max=_ALMOST_1))
    return torch.where(tokens.good, -tokens.log_probs, weights.alpha * unlikely)


def rwr(tokens: Tokens, weights: Weights) -> torch.Tensor:
    """-exp(R / beta) log p: reward-weighted regression (Peters & Schaal 2007, https://doi.org/10.1145/1273496.1273590).

    The weights are divided by their mean over the corpus: the same objective, at the learning rate of the others.
    """
    return -torch.exp(tokens.scores / weights.beta - weights.log_scale) * tokens.log_probs


def awr(tokens: Tokens, weights: Weights) -> torch.Tensor:
    """-alpha exp((R - V) / beta) log p + (1 - alpha) (V - R)^2: advantage-weighted regression (Peng et al. 2019).

    No gradient goes from the weight into V, and no weight exceeds `MOST_WEIGHT`.
    """
    assert tokens.values is not None  # the objective has a value head
    advantage = (tokens.scores - tokens.values).detach()
    weight = torch.exp(advantage / weights.beta).clamp(max=MOST_WEIGHT)
    value_loss = (tokens.values - tokens.scores) ** 2
    return -weights.alpha * weight * tokens.log_probs + (1 - weights.alpha) * value_loss


LOSSES: Mapping[str, Callable[[Tokens, Weights], torch.Tensor]] = MappingProxyType(
    {"mle": mle, "unlikelihood": unlikelihood, "rwr": rwr, "awr": awr}
)
"""By the name that `objectives.Objective` has for it."""
