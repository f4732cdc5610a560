"""Which of a model's attention functions runs a forward over whole sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

# The longest sequences for which plain products win. On one core of an EPYC with avx512_bf16, forward and backward of
# 9 heads of 64: 10 sequences of 89 tokens take 28 ms by the fused kernel and 9 ms by products, 64 of 20 take 48 and 8,
# 4 of 128 take 17 and 9, 8 of 192 take 49 and 47. In float32 the fused kernel is never behind.
SHORT = 128


@contextlib.contextmanager
def attention_for(config: Any, length: int, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Run short sequences of bfloat16 on a CPU by the model's own "eager" attention, in place of torch's fused one.

    The backward pass of the fused kernel costs several times its forward there. `config` is the model's; no other
    thread may run it meanwhile.
    """
    by_products = device.type == "cpu" and dtype == torch.bfloat16 and length <= SHORT
    if not by_products or getattr(config, "_attn_implementation", None) != "sdpa":
        yield
        return
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
