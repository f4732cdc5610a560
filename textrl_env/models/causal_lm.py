"""A Hugging Face causal LM as the two functions everything here is made of: hidden states, and their projection.

Splitting the model at its head is what lets the vocabulary projection run only where it is needed (the last token
while sampling, the response's tokens in an update) and in chunks.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.cache_utils import DynamicCache

from textrl_env.errors import ModelError
from textrl_env.models.compute.attention_kernel import attention_for
from textrl_env.models.compute.layer_checkpointing import LayerCheckpointing
from textrl_env.models.compute.precision import compute_dtype
from textrl_env.models.compute.weight_copies import WeightCopies
from textrl_env.models.context_rules import limited_window, rope_switch
from textrl_env.models.shared_prefix import SharedPrefix

PROBE_TOKENS = 5
SHARED_PROBE = 2
# Relative to the largest logit. bf16 keeps 8 bits of mantissa, and the two paths round at different places.
PROBE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def _count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Tell `weights_version` of every optimizer's step.

    torch counts what its own functions change in place. Fused kernels (`fused=True`), those of bitsandbytes and writes
    to `weight.data` go uncounted, and what was decoded with the weights before would be taken for right.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            torch.autograd.graph.increment_version(weight)


register_optimizer_step_post_hook(_count_step)


def require_weights(model: Any) -> None:
    """Raise ModelError where a tensor of the model holds no numbers, or not one number for every place."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta or tensor.layout != torch.strided:
            kind = "on the meta device, without values" if tensor.is_meta else f"sparse ({tensor.layout})"
            raise ModelError(
                f"{type(model).__name__} cannot be run: its tensor {name} is {kind}. "
                "Load the model with all its weights, as dense tensors on one device."
            )


class CausalLM:
    """A view on a causal LM (plain, or wrapped by peft); holds no weights of its own. Switches dropout off.

    adapter_off: run the model with its LoRA adapter disabled, which makes it the reference of its own policy.
    precision: what its matrix products are computed in; see `compute_dtype`. With bfloat16 products of float32 weights,
        decoding takes them from a bfloat16 copy of the matrices, half the memory of the weights again, which follows
        every change and is given up where a gradient is asked for. So it is with an adapter in float32 over weights in
        bfloat16: the copy is then of the adapter alone.
    """

    def __init__(self, model: Any, *, adapter_off: bool = False, precision: str = "auto"):
        require_weights(model)
        self.model = model.eval()
        self.adapter_off = adapter_off
        self._copies: WeightCopies | None = None
        self._checkpointing: LayerCheckpointing | None = None
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.config = base.config.get_text_config()
        self.body: Any = base.get_decoder()
        self.head: Any = base.get_output_embeddings()
        encoder_decoder = getattr(base.config, "is_encoder_decoder", False)
        if encoder_decoder or self.body is None or self.body is base or self.head is None:
            raise ModelError(
                f"{type(base).__name__} has no separate decoder and head; a decoder-only causal LM is needed"
            )
        self.vocab_size = int(self.head.weight.shape[0])
        self.hidden_size = int(self.head.weight.shape[1])
        self._parameters = list(model.parameters())
        self._takes_positions = "position_ids" in inspect.signature(self.body.forward).parameters
        self.rope_switch = rope_switch(self.config)
        # Checked in the weights' own type, where the tolerance is least.
        self.precision = "float32" if self.weight_dtype == torch.float32 else "auto"
        self._shares: bool | None = None  # not tried yet
        self._check_projection()
        self.precision = precision
        if self.device.type != "meta":
            _ = self.dtype  # refuses a precision that there is not, here and not at the first step

    def with_body(self, body: Any) -> CausalLM:
        """The same view with another decoder in front, such as a value trunk copied from this one."""
        other = copy.copy(self)
        other.body, other._parameters, other._copies = body, list(body.parameters()), None
        other.config = body.config  # its layers take their attention from there
        other._checkpointing = None
        return other

    @property
    def device(self) -> torch.device:
        device: torch.device = self.head.weight.device
        return device

    @property
    def weight_dtype(self) -> torch.dtype:
        """The type that the decoder's weights are stored in; an adapter's may be in another."""
        dtype: torch.dtype = next(self.body.parameters()).dtype
        return dtype

    @property
    def dtype(self) -> torch.dtype:
        """The type that matrix products are computed in, and that keys and values are cached in."""
        return compute_dtype(self.precision, self.weight_dtype, self.device, self.hidden_size)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in `dtype`. Forwards within one such block convert each trained weight once."""
        if not self._converts():
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _converts(self) -> bool:
        """Whether products are computed in half precision from weights that are in another: all, or an adapter's."""
        dtype = self.dtype
        return dtype.itemsize == 2 and any(parameter.dtype != dtype for parameter in self._parameters)

    def checkpoint_layers(self) -> None:
        """Keep of each layer what goes in alone, wherever gradients are asked for. Raises ModelError."""
        self._checkpointing = LayerCheckpointing(self.body)

    def drop_copies(self) -> None:
        """Free what decoding has copied."""
        self._copies = None

    @property
    def max_positions(self) -> int | None:
        """The longest sequence the model was built for, or None where it has no such limit."""
        return getattr(self.config, "max_position_embeddings", None)

    def weights_version(self) -> tuple[int, int]:
        """Changes whenever a weight does: by an optimizer, a load or a move. Caches are valid for one version."""
        version, where = 0, 0
        for parameter in self._parameters:
            version += parameter._version
            where ^= parameter.data_ptr()
        return version, where

    def hidden(
        self,
        input_ids: torch.Tensor,
        *,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
        prefix: SharedPrefix | None = None,
    ) -> torch.Tensor:
        """The last layer's states [B, T, H] of ids [B, T], as the model gives them; `states` is what training uses.

        Right padding needs no mask: attention is causal, so no real token sees what stands after it.
        cache: keys and values of what was decoded before. prefix: what every row begins with, before its T ids.
        """
        decoding = cache is not None
        past, before = (cache, 0) if prefix is None else (prefix.of_rows(len(input_ids)), prefix.length)
        arguments: dict[str, Any] = {"input_ids": input_ids, "use_cache": past is not None}
        if attention_mask is not None:
            arguments["attention_mask"] = attention_mask
        if past is not None:
            arguments["past_key_values"] = past
        if position_ids is not None and self._takes_positions:
            arguments["position_ids"] = position_ids
        checkpointing = self._checkpointing if torch.is_grad_enabled() else None
        attention: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if not decoding:  # a cache has its own
            attention = attention_for(self.config, before + input_ids.shape[1], self.dtype, self.device)
        with self._adapter(), self.autocast(), attention, checkpointing or contextlib.nullcontext():
            states: torch.Tensor = self._body(decoding=decoding)(**arguments).last_hidden_state
        return states

    def paged(self, input_ids: torch.Tensor, **paging: Any) -> torch.Tensor:
        """The same of ids [1, T] of many requests, one behind the other, for decoding.

        paging: what the continuous batching of `transformers` gives a model: positions, masks, and the pages.
        """
        with self._adapter(), self.autocast():
            states: torch.Tensor = self._body(decoding=True)(input_ids=input_ids, **paging).last_hidden_state
        return states

    def shares_prefixes(self, length: int) -> bool:
        """Whether rows of `length` tokens may take the keys and values of what they all begin with from one row.

        So it is on a CPU. A GPU's fused attention takes no mask, which these rows need.
        """
        if self.device.type != "cpu" or (self._checkpointing is not None and torch.is_grad_enabled()):
            return False  # layers that are computed again would bring their keys again
        if limited_window(self.config, length) or (self.rope_switch is not None and length > self.rope_switch):
            return False
        if self._shares is None:
            self._shares = self._shares_rightly()
        return self._shares

    def prefix(self, input_ids: torch.Tensor) -> SharedPrefix:
        """Keys and values of ids [P], for rows that all begin with them; carries gradients."""
        cache = DynamicCache()
        with self._adapter(), self.autocast(), attention_for(self.config, len(input_ids), self.dtype, self.device):
            self.body(input_ids=input_ids[None], past_key_values=cache, use_cache=True)
        return SharedPrefix(cache)

    def states(
        self, input_ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, prefix: SharedPrefix | None = None
    ) -> torch.Tensor:
        """States [M, H] of the prefixes `input_ids[rows[m], : columns[m] + 1]`, each as if it stood alone.

        input_ids: [B, T], right-padded with any id. rows, columns: int64 [M].
        prefix: of the ids that all rows begin with, where these have been run; no column lies in it.

        One forward over `input_ids` gives them all, but for a model with a `rope_switch`: there a prefix up to the
        switch and one beyond it take a forward each, over the rows that have such prefixes.
        """
        if prefix is not None:
            return self.hidden(input_ids[:, prefix.length :], prefix=prefix)[rows, columns - prefix.length]
        switch = self.rope_switch
        if switch is None or input_ids.shape[1] <= switch:
            return self.hidden(input_ids)[rows, columns]
        pieces, places = [], []
        for beyond, width in ((False, switch), (True, input_ids.shape[1])):
            place = ((columns >= switch) == beyond).nonzero().squeeze(1)
            if len(place):
                used, local_rows = rows[place].unique(return_inverse=True)
                pieces.append(self.hidden(input_ids[used, :width])[local_rows, columns[place]])
                places.append(place)
        return torch.cat(pieces)[torch.cat(places).argsort()]

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] in fp32 of states [..., H]."""
        logits: torch.Tensor = self.head(hidden.to(self.head.weight.dtype)).float()
        # The three ways in which published decoder models change the head's output.
        if (factor := getattr(self.config, "logit_scale", None)) is not None:
            logits = logits * factor
        if (divisor := getattr(self.config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    def _body(self, *, decoding: bool) -> Any:
        """The decoder to run. Token by token, every step would convert all of its weights to run a few rows."""
        if not self._converts():
            return self.body
        if torch.is_grad_enabled():
            self.drop_copies()  # an update needs the memory, and makes them stale
            return self.body
        if not decoding:
            return self.body
        version = self.weights_version()
        if self._copies is None or not self._copies.are_of(self.dtype, version):
            self._copies = WeightCopies(self.body, self.dtype, version)
        return self._copies.current(version)

    def _adapter(self) -> contextlib.AbstractContextManager[Any]:
        return self.model.disable_adapter() if self.adapter_off else contextlib.nullcontext()

    @torch.no_grad()
    def _shares_rightly(self) -> bool:
        """Whether states behind a shared prefix are those of whole rows: not so where more than keys is carried on."""
        ids = torch.arange(2 * PROBE_TOKENS, device=self.device).view(2, -1) % self.vocab_size
        ids[:, :SHARED_PROBE] = ids[0, :SHARED_PROBE]
        wanted = self.hidden(ids)[:, SHARED_PROBE:]
        try:
            prefix = self.prefix(ids[0, :SHARED_PROBE])
            if len(prefix.layers) != self.config.num_hidden_layers:
                return False
            got = self.hidden(ids[:, SHARED_PROBE:], prefix=prefix)
        except Exception:  # a model with a cache of its own kind: whatever it raises, its rows are run whole
            return False
        error = (self.project(got) - self.project(wanted)).abs().max() / self.project(wanted).abs().max().clamp(min=1.0)
        return bool(error <= PROBE_TOLERANCE[self.dtype])

    @torch.no_grad()
    def _check_projection(self) -> None:
        """Refuse a model whose logits are not `project(hidden(ids))`: its rewards would be wrong in silence."""
        ids = torch.arange(PROBE_TOKENS, device=self.device)[None] % self.vocab_size
        try:
            with self._adapter():
                expected = self.model(input_ids=ids, use_cache=False).logits.float()
            got = self.project(self.hidden(ids))
        except (TypeError, ValueError, AttributeError) as cause:
            raise ModelError(f"{type(self.model).__name__} cannot be run on token ids alone: {cause}") from cause
        difference = (expected - got).abs().max() / expected.abs().max().clamp(min=1.0)
        if not difference <= PROBE_TOLERANCE[self.weight_dtype]:
            raise ModelError(
                f"{type(self.model).__name__}: its logits are not its head applied to its decoder's states "
                f"(relative difference {difference:.1e}). Models that change their logits in a way of their own "
                "are not supported."
            )
