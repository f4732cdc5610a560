"""Engines that decode whole responses at once, behind one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Request(NamedTuple):
    """A response that is asked for."""

    ids: list[int]  # what it continues
    limit: int  # tokens, at least 1


class Response(NamedTuple):
    """The tokens after a request's ids, up to its limit or the first that ends a response."""

    tokens: list[int]
    log_probs: list[float]  # of the distribution that each was drawn from; 0 where greedy


class Engine(Protocol):
    """Decodes responses to many requests: continuous batching, in this process or another."""

    def respond(self, requests: Sequence[Request], *, deterministic: bool) -> list[Response]:
        """Answer all requests, in their order, with the model's present weights.

        Everything random follows from torch's global generator. Raises ModelError.
        """
