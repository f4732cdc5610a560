"""The optimizers that an agent may choose from, each at a learning rate that means about the same to all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

CLIP_NORM = 1.0
"""Gradients are clipped to this norm before each step."""


class KnownOptimizer(NamedTuple):
    """rate: what the shared learning rate is multiplied by."""

    optimizer_class: type[torch.optim.Optimizer]
    arguments: Mapping[str, Any]
    rate: float = 1.0


OPTIMIZERS: Mapping[str, KnownOptimizer] = MappingProxyType(
    {
        "adamw": KnownOptimizer(torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.01, "fused": True}),
        # A step of AdamW moves each of a million weights by about the rate. Momentum sums up to ten gradients of norm 1
        # at most, which is 0.01 a weight: a hundred times the rate makes the step as long.
        "sgd": KnownOptimizer(torch.optim.SGD, {"momentum": 0.9, "fused": True}, rate=100.0),
        # Its rate is relative to the root mean square of a matrix, here about a twentieth.
        "adafactor": KnownOptimizer(torch.optim.Adafactor, {"weight_decay": 0.0}, rate=20.0),
    }
)


def make_optimizer(name: str, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimizer of that name; `set_learning_rate` gives it a rate."""
    known = OPTIMIZERS[name]
    made: torch.optim.Optimizer = known.optimizer_class(parameters, lr=0.0, **known.arguments)  # type: ignore[call-arg]
    return made


def set_learning_rate(optimizer: torch.optim.Optimizer, name: str, learning_rate: float) -> None:
    """Set the rate of all weights; learning_rate: before the optimizer's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * OPTIMIZERS[name].rate
