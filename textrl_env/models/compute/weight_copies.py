"""A decoder whose matrices are copies in another type, for decoding.

torch.autocast converts a weight each time a block of it is entered: at every step, for a few rows. That takes as long
as bfloat16 saves. Here the conversion is made once for each version of the weights, and autocast finds nothing left to
convert, so that the numbers are those it computes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class WeightCopies:
    """A copy of `body` that shares all of it but the weights of its linear layers, which are copies in `dtype`.

    Those that are in `dtype` already are shared too.

    version: of the weights, as `CausalLM.weights_version` has it: how often they changed, and where they are.
    """

    def __init__(self, body: Any, dtype: torch.dtype, version: tuple[int, int]):
        self._dtype, self._where = dtype, version[1]
        self._version: tuple[int, int] | None = None  # of what was converted
        # `deepcopy` takes what its memo holds already: no tensor is copied, and tied ones stay tied. Configurations are
        # shared too, since a decoder switches the attention there.
        configs = (module.config for module in body.modules() if hasattr(module, "config"))
        shared: dict[int, Any] = {id(kept): kept for kept in (*body.parameters(), *body.buffers(), *configs)}
        self._body = copy.deepcopy(body, shared)
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # copy, source
        for module in self._body.modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                for name, source in list(module.named_parameters(recurse=False)):
                    if source.is_floating_point() and source.dtype != dtype:
                        converted = nn.Parameter(torch.empty_like(source, dtype=dtype), requires_grad=False)
                        setattr(module, name, converted)
                        self._pairs.append((converted, source))

    def are_of(self, dtype: torch.dtype, version: tuple[int, int]) -> bool:
        """Whether these are in `dtype`, of weights that have not moved since."""
        return (dtype, version[1]) == (self._dtype, self._where)

    @torch.no_grad()
    def current(self, version: tuple[int, int]) -> Any:
        """The decoder, with what the weights are at `version`; called with the same one, it converts nothing."""
        if version != self._version:
            for converted, source in self._pairs:
                converted.copy_(source)
            self._version = version
        return self._body
