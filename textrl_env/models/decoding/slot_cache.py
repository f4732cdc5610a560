"""Keys and values of N rows, each at its own length, in preallocated tensors.

`transformers` caches grow in lockstep: every row is as long as the longest. Here a row is a *slot*. A forward brings
any number of tokens of any rows, and each is written at its row's own position. What stands beyond a row's length is
hidden by masks, so any decoder with ordinary attention works unmodified.
"""

from __future__ import annotations

from functools import partial

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from textrl_env.models.decoding.slot_plan import SlotPlan
from textrl_env.models.shared_prefix import SharedPrefix


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, `[rows, heads, max_length, head_dim]`: attention reads a head's keys in one run."""

    is_sliding = False

    def __init__(self, cache: SlotCache):
        super().__init__()  # type: ignore[no-untyped-call]  # of transformers
        self.cache, self.num_rows, self.max_length = cache, cache.num_rows, cache.max_length

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        def slots(states: torch.Tensor) -> torch.Tensor:
            _, heads, _, dim = states.shape
            return states.new_zeros(self.num_rows, heads, self.max_length, dim, dtype=self.cache.dtype)

        self.keys, self.values = slots(key_states), slots(value_states)
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):  # type: ignore[no-untyped-def]  # as the base class
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values, plan = self.keys, self.values, self.cache.plan
        assert keys is not None
        assert values is not None
        assert plan is not None  # a forward is planned before it is run
        for slots, states in ((keys, key_states), (values, value_states)):
            _, heads, _, dim = states.shape
            tokens = states.transpose(1, 2).reshape(-1, dim).to(slots.dtype)
            slots.view(-1, dim).index_copy_(0, plan.places(heads), tokens)
        if plan.in_place:
            return keys, values
        if plan.slots is not None:
            return keys[plan.slots, :, : plan.width], values[plan.slots, :, : plan.width]
        return keys[:, :, : plan.width], values[:, :, : plan.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.max_length


class SlotCache(Cache):
    """A `transformers` cache of `num_rows` slots of `max_length` tokens; `plan` is set before every forward.

    dtype: what keys and values are stored in; None is the type that the model gives them.

    Memory: 2 * layers * num_rows * heads * max_length * head_dim elements, allocated at the first forward.
    """

    def __init__(self, num_rows: int, max_length: int, dtype: torch.dtype | None = None):
        self.plan: SlotPlan | None = None
        self.num_rows, self.max_length, self.dtype = num_rows, max_length, dtype
        layer = partial(SlotLayer, self)
        super().__init__(layer_class_to_replicate=layer)  # type: ignore[arg-type]  # a class there, called only

    def begin_with(self, prefix: SharedPrefix) -> None:
        """Write the keys and values of `prefix` at the first positions of every slot."""
        for number, (keys, values) in enumerate(prefix.layers):
            if number == len(self.layers):  # the first forward would make it
                self.layers.append(SlotLayer(self))
            layer = self.layers[number]
            assert isinstance(layer, SlotLayer)
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys[:, :, : prefix.length] = keys
            layer.values[:, :, : prefix.length] = values
