"""From logits to tokens: temperature, top-k, top-p and banned ids, and the log-probability of what was sampled.

A log-probability is that of the distribution actually sampled. After an update a token that was drawn can be outside
the cut, where it has no finite log-probability. It gets the one it has before truncation, which is finite and ranks
below every kept token under top-k, so that no minus infinity ever reaches an optimizer. What is charged is never one of
these: a KL is taken at the tokens of the policy that drew them, and the reference is not cut.
"""

from __future__ import annotations

import math
import numbers
import sys
from dataclasses import dataclass
from typing import NamedTuple

import torch

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn from a model's logits.

    temperature: logits are divided by it; > 0.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020,
        https://arxiv.org/abs/1904.09751); 1.0 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise ConfigError(f"{name} must be a number, got {shown(value)}")
        if not 0 < self.temperature <= sys.float_info.max:
            raise ConfigError(
                f"temperature must be > 0, got {shown(self.temperature)}. For greedy decoding use deterministic=True."
            )
        if not 0 <= self.top_k < math.inf or self.top_k != int(self.top_k):
            raise ConfigError(f"top_k must be a whole number >= 0 (0 keeps every token), got {shown(self.top_k)}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {shown(self.top_p)}")

    @property
    def truncates(self) -> bool:
        """Whether some tokens are cut from the distribution."""
        return self.top_k > 0 or self.top_p < 1.0


class Sample(NamedTuple):
    """Tokens drawn from a batch of distributions."""

    tokens: torch.Tensor  # int64 [N]
    log_probs: torch.Tensor  # float32 [N], of the distribution sampled; 0 where greedy


def scale(logits: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """Logits [..., V] in fp32, divided by the temperature."""
    logits = logits.float()
    return logits if sampling.temperature == 1.0 else logits / sampling.temperature


def truncate(logits: torch.Tensor, sampling: SamplingParams, banned: torch.Tensor | None) -> torch.Tensor:
    """Set what cannot be sampled to -inf.

    logits: scaled, [..., V]. banned: bool [V], True where an id must never be emitted, or None.
    """
    if banned is not None:
        logits = logits.masked_fill(banned, -torch.inf)
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        probs = ordered.softmax(dim=-1)
        # A token is cut when the mass before it already reaches p; the likeliest is always kept.
        cut = probs.cumsum(dim=-1) - probs >= sampling.top_p
        logits = logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)
    return logits


def warp(logits: torch.Tensor, sampling: SamplingParams, banned: torch.Tensor | None = None) -> torch.Tensor:
    """The logits of the distribution sampled: [..., V] fp32, -inf outside its support."""
    return truncate(scale(logits, sampling), sampling, banned)


def sample(
    logits: torch.Tensor, sampling: SamplingParams, banned: torch.Tensor | None = None, *, deterministic: bool = False
) -> Sample:
    """Draw one token a row from logits [N, V] with torch's global generator; greedy where `deterministic`.

    Greedy is a point mass, so its log-probabilities are 0.
    """
    warped = warp(logits, sampling, banned)
    if deterministic:
        tokens = warped.argmax(dim=-1)
        return Sample(tokens, torch.zeros_like(tokens, dtype=torch.float32))
    log_probs = warped.log_softmax(dim=-1)
    # Inverse CDF: one uniform a row where the usual exponential race draws V of them. Double precision keeps the
    # tail of a large vocabulary; scaling by the last entry absorbs the rounding of the sum.
    precise = torch.float32 if log_probs.device.type == "mps" else torch.float64  # MPS has no double
    cdf = log_probs.exp().cumsum(dim=-1, dtype=precise)
    uniform = torch.rand(len(cdf), 1, dtype=precise, device=cdf.device)
    tokens = torch.searchsorted(cdf, uniform * cdf[:, -1:], right=True).clamp_(max=cdf.shape[-1] - 1)
    return Sample(tokens.squeeze(-1), log_probs.gather(-1, tokens).squeeze(-1))


def log_softmax_in_support(
    logits: torch.Tensor, actions: torch.Tensor, sampling: SamplingParams, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of given actions and of the whole distribution.

    logits: [M, V] as the model emits them. actions: int64 [M].
    Returns `(log_prob [M], log_probs [M, V])`, fp32; the first finite for every action (see the module's docstring),
    the second -inf outside the support.
    """
    scaled = scale(logits, sampling)
    if banned is None and not sampling.truncates:
        log_probs = scaled.log_softmax(dim=-1)
        return log_probs.gather(-1, actions[:, None]).squeeze(-1), log_probs
    log_probs = truncate(scaled, sampling, banned).log_softmax(dim=-1)
    chosen = log_probs.gather(-1, actions[:, None]).squeeze(-1)
    outside = torch.isinf(chosen)
    if bool(outside.any()):
        untruncated = scaled.log_softmax(dim=-1).gather(-1, actions[:, None]).squeeze(-1)
        chosen = torch.where(outside, untruncated, chosen)
    return chosen, log_probs


def entropy_of(log_probs: torch.Tensor, everything_possible: bool = False) -> torch.Tensor:
    """Entropy in nats, [M], of distributions given as log-probabilities [M, V] (-inf where impossible).

    everything_possible: no entry is -inf, which spares a pass over all of them.
    """
    if not everything_possible:
        # 0 * -inf is nan; the limit is 0.
        log_probs = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
    negative: torch.Tensor = torch.linalg.vecdot(log_probs.exp(), log_probs)
    return -negative
