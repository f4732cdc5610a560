"""What all sequences of a batch begin with, run once for all of them.

Prompts of one chat template and system prompt begin with the same ids: 24 of the 38 that SmolLM2's `positive` has. In a
causal model the keys and values there depend on nothing that follows, so one row computes them and every row attends to
them. Gradients of all rows meet in that one.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache

# The fewest ids, and the least share of a batch's tokens, that are worth the price: one more forward, of one short row.
LEAST_IDS = 4
LEAST_SAVED = 0.1


class SharedPrefix:
    """Keys and values of P ids, of every layer, that rows of any number may attend to.

    They are kept in float32 at least: the gradients of many rows are added up there.
    """

    def __init__(self, cache: DynamicCache):
        layers: Any = cache.layers  # a forward has filled them
        states = [(layer.keys, layer.values) for layer in layers]
        self._dtypes = [keys.dtype for keys, _ in states]
        self.layers = [(_precise(keys), _precise(values)) for keys, values in states]
        self.length = cache.get_seq_length()

    def of_rows(self, count: int) -> DynamicCache:
        """A cache in which `count` rows begin with the prefix."""
        return DynamicCache(
            [
                tuple(states.to(dtype).expand(count, -1, -1, -1) for states in layer)
                for layer, dtype in zip(self.layers, self._dtypes, strict=True)
            ]
        )


def _precise(states: torch.Tensor) -> torch.Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))


def shared_length(input_ids: torch.Tensor, lengths: int, first: torch.Tensor) -> int:
    """How many ids to run once: those that all rows begin with before any state is asked for; 0 where it saves little.

    input_ids: int64 [B, T]. lengths: tokens of all rows together. first: int64 [M], columns that a state is asked of.
    """
    rows = len(input_ids)
    if rows < 2 or not len(first):
        return 0
    alike = (input_ids == input_ids[:1]).all(dim=0).int().cumprod(dim=0).sum()
    length = int(torch.minimum(alike, first.min()))
    return length if length >= LEAST_IDS and length * (rows - 1) >= LEAST_SAVED * lengths else 0
