"""Attention of one flat row of tokens over pages of keys and values, as an attention function of `transformers`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from textrl_env.models.decoding.slot_attention import UNKNOWN

NAME = "textrl_pages"


@contextlib.contextmanager
def attending_to_pages(config: Any) -> Iterator[None]:
    """Attend to pages in forwards of the model of `config`, which no other thread may run meanwhile."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cache: Any,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Write keys and values to the pages of `cache`, a PagedAttentionCache, and attend to those that the mask shows.

    SDPA's function does so with states of one type. With bfloat16 products, a rotation leaves some in float32.
    Raises ValueError where the model's scores are more than products of queries and keys.
    """
    if any(arguments.get(name) is not None for name in UNKNOWN):
        raise ValueError(f"{type(module).__name__} changes its attention's scores in a way of its own")
    query, key, value = (states.to(cache.dtype) for states in (query, key, value))
    return sdpa_attention_forward(module, query, key, value, attention_mask, cache=cache, **arguments)


AttentionInterface.register(NAME, paged_attention)
