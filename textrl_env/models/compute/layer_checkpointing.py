"""Layers whose activations are computed again in the backward pass instead of kept: time for memory."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from textrl_env.errors import ModelError
from textrl_env.models.compute.attention_kernel import AttentionBy

PROBE_TOKENS = 5


class LayerCheckpointing:
    """A block in which a decoder's layers keep nothing but what goes in, by transformers' own means.

    Transformers does so in training mode alone, which would switch dropout on: the ratio of old and new policy would be
    noise. Here only the layers themselves are in that mode, not what they are made of, and a probe sees to it that no
    number changes. Raises ModelError where the decoder has no such layers, or they drop out by themselves.
    """

    def __init__(self, body: Any):
        layers = (module for module in body.modules() if isinstance(module, GradientCheckpointingLayer))
        self._layers: list[Any] = list(layers)
        self._config = getattr(body, "config", None)
        self._checkpointed = 0  # layers run in blocks so far
        name = type(body).__name__
        ids = torch.arange(PROBE_TOKENS, device=next(body.parameters()).device)[None]
        if self._layers:
            with torch.no_grad():
                plain = body(input_ids=ids, use_cache=False).last_hidden_state
                with self:
                    checkpointed = body(input_ids=ids, use_cache=False).last_hidden_state
        if not self._checkpointed:
            raise ModelError(f"{name} has no layers that can be checkpointed: leave gradient_checkpointing off")
        if not torch.equal(plain, checkpointed):
            raise ModelError(
                f"{name} computes other numbers when its layers are checkpointed: they drop out by themselves. Set the "
                "model's dropout to 0, or leave gradient_checkpointing off"
            )

    def __enter__(self) -> None:
        for layer in self._layers:
            layer.training = layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = self._run

    def __exit__(self, *error: Any) -> None:
        for layer in self._layers:
            layer.training = layer.gradient_checkpointing = False
            del layer._gradient_checkpointing_func

    def _run(self, layer: Any, *inputs: Any) -> Any:
        self._checkpointed += 1
        return checkpoint(
            layer, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=self._same_attention
        )

    def _same_attention(
        self,
    ) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        """For a layer's forward, and for the second one: in the backward pass the model's choice may be another."""
        name = getattr(self._config, "_attn_implementation", None)
        again = contextlib.nullcontext() if name is None else AttentionBy(self._config, name)
        return contextlib.nullcontext(), again
