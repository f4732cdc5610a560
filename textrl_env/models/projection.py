"""The vocabulary projection in chunks, so that the peak of memory does not grow with the minibatch.

Logits are `tokens x V`: at 4096 tokens and a vocabulary of 50257 they take 0.8 GB, and autograd keeps several copies.
Each chunk is projected, reduced to one log-probability and one entropy a token, and recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from textrl_env.models.sampling import SamplingParams, entropy_of, log_softmax_in_support

# Logits held at a time. 2**24 in fp32 are 64 MiB a copy: far below what a minibatch's activations take, and large
# enough that small vocabularies are done in one piece, without recomputation.
CHUNK_ELEMENTS = 2**24


class TokenStatistics(NamedTuple):
    """What is kept of each token's distribution."""

    log_probs: torch.Tensor  # float32 [M], of the actions
    entropy: torch.Tensor | None  # float32 [M], nats


class _Entropy(torch.autograd.Function):
    """`entropy_of`, whose backward pass is skipped where the entropy's gradient is 0.

    An update multiplies the entropy by a coefficient that is 0 in most runs and may change at any time.
    """

    @staticmethod
    def forward(ctx: Any, log_probs: torch.Tensor, everything_possible: bool) -> torch.Tensor:
        ctx.save_for_backward(log_probs)
        ctx.everything_possible = everything_possible
        return entropy_of(log_probs, everything_possible)

    @staticmethod
    def backward(ctx: Any, *weights: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        (weight,) = weights
        if not bool(weight.any()):
            return None, None
        (log_probs,) = ctx.saved_tensors
        if not ctx.everything_possible:
            log_probs = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)  # as in `entropy_of`
        return -weight[:, None] * log_probs.exp() * (log_probs + 1), None


def token_statistics(
    hidden: torch.Tensor,
    actions: torch.Tensor,
    project: Callable[[torch.Tensor], torch.Tensor],
    sampling: SamplingParams,
    banned: torch.Tensor | None,
    vocab_size: int,
    *,
    entropy: bool = True,
    chunk_elements: int | None = CHUNK_ELEMENTS,
) -> TokenStatistics:
    """Log-probabilities of `actions` and entropies, with gradients to `hidden` and the head.

    hidden: [M, H] of the state's last token. actions: int64 [M]. project: [m, H] -> logits [m, V].
    entropy: whether to give it.
    chunk_elements: logits held at a time; None projects all tokens at once.
    """
    everything_possible = banned is None and not sampling.truncates

    def one_chunk(hidden: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chosen, log_probs = log_softmax_in_support(project(hidden), actions, sampling, banned)
        if not entropy:
            return (chosen,)
        return chosen, _Entropy.apply(log_probs, everything_possible)  # type: ignore[no-untyped-call]  # torch's

    count = len(actions)
    rows = count if chunk_elements is None else max(1, chunk_elements // vocab_size)
    pieces = []
    for chunk in zip(hidden.split(rows), actions.split(rows), strict=True):
        if torch.is_grad_enabled() and count > rows:
            pieces.append(checkpoint(one_chunk, *chunk, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(one_chunk(*chunk))
    log_probs, *entropies = (torch.cat(column) for column in zip(*pieces, strict=True))
    return TokenStatistics(log_probs, entropies[0] if entropies else None)
