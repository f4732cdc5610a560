"""Which of a model's attention functions runs a forward over whole sequences."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

# The longest sequences for which plain products win. On one core of an EPYC with avx512_bf16, forward and backward of
# 9 heads of 64: 10 sequences of 89 tokens take 28 ms by the fused kernel and 9 ms by products, 64 of 20 take 48 and 8,
# 4 of 128 take 17 and 9, 8 of 192 take 49 and 47. In float32 the fused kernel is never behind.
SHORT = 128


class AttentionBy:
    """A block in which the model of `config` attends by the function of this name; may be entered again and again.

    No other thread may run that model meanwhile.
    """

    def __init__(self, config: Any, name: str):
        self._config, self._name = config, name

    def __enter__(self) -> None:
        self._before = self._config._attn_implementation
        self._config._attn_implementation = self._name

    def __exit__(self, *error: Any) -> None:
        self._config._attn_implementation = self._before


def attention_for(
    config: Any, length: int, dtype: torch.dtype, device: torch.device
) -> contextlib.AbstractContextManager[None]:
    """Run short sequences of bfloat16 on a CPU by the model's own "eager" attention, in place of torch's fused one.

    The backward pass of the fused kernel costs several times its forward there. `config` is the model's.
    """
    by_products = device.type == "cpu" and dtype == torch.bfloat16 and length <= SHORT
    if not by_products or getattr(config, "_attn_implementation", None) != "sdpa":
        return contextlib.nullcontext()
    return AttentionBy(config, "eager")
