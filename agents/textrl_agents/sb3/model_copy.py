"""A module as an argument of a policy: SB3 pickles those arguments into its zip, where weights do not belong."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class ModelCopy:
    """A module to copy. Pickled, it keeps its architecture and loses its weights, which SB3's zip has as tensors."""

    def __init__(self, module: Any):
        self.module = module

    def __getstate__(self) -> dict[str, Any]:
        return {"module": _blank(self.module, "meta")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.module = _blank(state["module"], "cpu")


def _blank(module: Any, device: str) -> Any:
    """A copy whose parameters are 0 on `device`; "meta" stores none. Buffers, such as rotary frequencies, are kept."""
    # `deepcopy` takes from its memo what is there already: no weight is copied, and tied ones stay one.
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(torch.zeros_like(weight, device=device), weight.requires_grad)
        for weight in module.parameters()
    }
    return copy.deepcopy(module, memo)
