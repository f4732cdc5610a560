"""The floating-point operations and bytes that a model's passes cannot do without.

With B weights in the decoder's matrices, A in an adapter beside them, H in the vocabulary's projection, L layers, and
attention d wide (keys and values: k wide), a forward over T tokens, P of them projected, whose contexts sum to C:

    forward  2 (B + A) T + 2 H P + 4 L d C
    update   6 (B + A) T + 6 H P + 12 L d C                 all weights trained
             4 B T + 6 A T + 4 H P + 12 L d C               an adapter alone: no gradients of the others
    decode   w (B + A + H) + w 2 L k C  bytes               a step: every weight once, and the keys and values of C

2 operations a weight and token forward and 4 backward, half of them for the weights' own gradients, are those of Kaplan
et al. 2020 (arXiv:2001.08361, section 2.1); attention's 4 L d C forward and twice that backward those of Chowdhery et
al. 2022 (arXiv:2204.02311, appendix B), with C the causal contexts. That decoding reads every weight at each step is in
Pope et al. 2022 (arXiv:2211.05102). What an implementation does beyond that is its own loss: padding, activations that
are computed twice, the optimizer, sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from textrl_env.models import CausalLMActorCritic

ADAPTER = "lora_"  # in the names of an adapter's weights


@dataclass(frozen=True)
class ModelCosts:
    """The symbols above, read off a model.

    body: B. adapter: A. head: H. layers: L. attention: d. keys: k. itemsize: w, bytes of a number in the type that
        products are computed in.
    adapter_alone: whether an update trains the adapter and not the rest.
    """

    body: int
    adapter: int
    head: int
    layers: int
    attention: int
    keys: int
    itemsize: int
    adapter_alone: bool

    @classmethod
    def of(cls, policy: CausalLMActorCritic) -> ModelCosts:
        """Count a policy's matrices. Experts count as if every token went through all of them."""
        config, lm = policy.lm.config, policy.lm
        heads = int(config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        sizes = {ADAPTER: 0, "": 0}
        for name, weight in _matrices(lm.body):
            sizes[ADAPTER if ADAPTER in name else ""] += weight.numel()
        return cls(
            body=sizes[""],
            adapter=sizes[ADAPTER],
            head=lm.head.weight.numel(),
            layers=int(config.num_hidden_layers),
            attention=heads * width,
            keys=int(getattr(config, "num_key_value_heads", None) or heads) * width,
            itemsize=lm.dtype.itemsize,
            adapter_alone=hasattr(policy.model, "disable_adapter"),
        )

    @property
    def weights(self) -> int:
        """All of them in matrices; a head that shares the embeddings' is counted once."""
        return self.body + self.adapter + self.head

    def forward_flops(self, tokens: float, projected: float, contexts: float) -> float:
        """Operations of one pass. tokens: T. projected: P. contexts: C."""
        return (
            2.0 * (self.body + self.adapter) * tokens
            + 2.0 * self.head * projected
            + 4.0 * self.layers * self.attention * contexts
        )

    def update_flops(self, tokens: float, projected: float, contexts: float) -> float:
        """Operations of one pass forward and backward."""
        frozen = 4.0 if self.adapter_alone else 6.0
        return (
            (frozen * self.body + 6.0 * self.adapter) * tokens
            + frozen * self.head * projected
            + 12.0 * self.layers * self.attention * contexts
        )

    def decode_bytes(self, contexts: float) -> float:
        """Bytes that a step of decoding reads. contexts: C, summed over its rows."""
        return self.itemsize * (self.weights + 2.0 * self.layers * self.keys * contexts)


def matrix_shapes(policy: CausalLMActorCritic) -> list[tuple[int, int]]:
    """Return (out, in) of every matrix that a token is multiplied by, the projection's among them; no adapter's."""
    shapes = [tuple(weight.shape) for name, weight in _matrices(policy.lm.body) if ADAPTER not in name]
    return [(int(rows), int(columns)) for rows, columns in [*shapes, policy.lm.head.weight.shape]]


def _matrices(body: Any) -> list[tuple[str, torch.Tensor]]:
    tables = {id(module.weight) for module in body.modules() if isinstance(module, nn.Embedding)}
    return [(name, weight) for name, weight in body.named_parameters() if weight.ndim == 2 and id(weight) not in tables]
