"""A policy's distributions and values at observations or transitions, each computed when it is first asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn

from textrl_env.models.packing import PackedEpisodes


class StatePolicy(Protocol):
    """What the states ask of their policy. M states are seen by their observations or as transitions (see `States`)."""

    value_body: nn.Module | None

    def _features(self, shown: torch.Tensor | PackedEpisodes) -> torch.Tensor:
        """What the distribution is made of, [M, F]."""

    def _own_states(self, features: torch.Tensor) -> torch.Tensor:
        """The language model's states, [M, H]."""

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of the distribution sampled, float32 [M, V]."""

    def _value_states(self, shown: torch.Tensor | PackedEpisodes) -> torch.Tensor:
        """The states that values are read from, [M, H]."""

    def _values(self, states: torch.Tensor) -> torch.Tensor:
        """State values, float32 [M]."""


class States:
    """The states of M observations or transitions. Each part is computed when it is first asked for.

    shown: observations int64 [M, L], right-padded with -1, or the transitions of whole sequences. These carry gradients
        where gradients were enabled when the states were asked for.
    """

    def __init__(self, policy: StatePolicy, shown: torch.Tensor | PackedEpisodes):
        self._policy, self._shown = policy, shown
        self._with_gradients = torch.is_grad_enabled() and isinstance(shown, PackedEpisodes)

    @functools.cached_property
    def hidden(self) -> torch.Tensor:
        """The language model's states, [M, H]."""
        with torch.set_grad_enabled(self._with_gradients):
            return self._policy._own_states(self.features)

    @functools.cached_property
    def features(self) -> torch.Tensor:
        """What the distribution is made of, [M, F]."""
        with torch.set_grad_enabled(self._with_gradients):
            return self._policy._features(self._shown)

    @functools.cached_property
    def logits(self) -> torch.Tensor:
        """Logits of the distribution sampled, float32 [M, V]; -inf where an id cannot be drawn."""
        with torch.set_grad_enabled(self._with_gradients):
            return self._policy._logits(self.features)

    @functools.cached_property
    def values(self) -> torch.Tensor:
        """State values, float32 [M]."""
        with torch.set_grad_enabled(self._with_gradients):
            known = "features" in vars(self) and self._policy.value_body is None
            return self._policy._values(self.hidden if known else self._policy._value_states(self._shown))

    def distributions(self, rows: int) -> Iterator[torch.Tensor]:
        """Log-probabilities of every id, float32 [m, V] for `rows` of the M at a time."""
        for part in self.features.split(rows):
            yield self._policy._logits(part).log_softmax(dim=-1)
