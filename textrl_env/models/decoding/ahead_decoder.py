"""Tokens of responses that were decoded as a whole, served one by one as their rows get there.

Within a turn the next observation is known: it is the last one and the token that was drawn. So a whole response can be
decoded at once, and its next token is served where an observation comes that it continues. Any other observation (the
environment forced a token, appended some, or began anew) is a new request, and new weights forget all that was decoded.

What is kept is a continuation of ids, and not of a row. Each is served once: whoever shows the same ids again gets
another one, drawn independently, as from any policy. Which continuations are never served does not depend on what is
in them, so that what is served has the policy's distribution.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from textrl_env.models.decoding.engine import Engine, Request, Response
from textrl_env.models.sampling import Sample

KEPT = 16384  # ids that have continuations nobody came for; beyond, all are forgotten

# Responses that are decoded for each row together, where it is sure to show so many more prompts.
AHEAD_RESPONSES = 4
# Ids of the prompts that some rows show next, were they to end in this order; fewer where there are no more. A row that
# is named twice ends twice.
Upcoming = Callable[[Sequence[int]], Sequence[np.ndarray]]


class StepPolicy(Protocol):
    """What the decoder asks of the policy for a row that needs one token alone."""

    def _prefix_features(self, observations: torch.Tensor) -> torch.Tensor:
        """What the distribution is made of, [M, F], of observations int64 [M, L], each run as a whole."""

    def _draw(self, features: torch.Tensor, *, deterministic: bool) -> Sample: ...

    def _decoded_version(self) -> Any:
        """Changes whenever a weight does, or how tokens are drawn."""


@dataclass(slots=True)
class _Continuation:
    """What is left of a response."""

    tokens: deque[int]
    log_probs: deque[float]
    ends: bool  # whether the episode is over behind it, as far as one can tell

    def __len__(self) -> int:
        return len(self.tokens)


class _Shown(NamedTuple):
    """The observations of a step: rows of ids by their bytes."""

    ids: np.ndarray  # int64 [N, L], right-padded with -1
    lengths: np.ndarray  # int64 [N]
    keys: list[bytes]  # of each row's ids

    @classmethod
    def of(cls, observations: torch.Tensor) -> _Shown:
        ids = observations.numpy(force=True).astype(np.int64)  # a copy: an environment writes into its own
        lengths = (ids >= 0).sum(axis=1)
        return cls(ids, lengths, [row[:length].tobytes() for row, length in zip(ids, lengths, strict=True)])


class AheadDecoder:
    """Draws the next token of rows that grow, from whole responses that `engine` has decoded.

    policy: for rows that need one token. eos_ids: tokens that end a response.
    response_tokens: of the longest response; None where only the observation's length bounds it.

    A row gets one token alone, by a forward over all of it, where nothing more can follow or is likely to: at the end
    of the context, behind a whole response, and where it shows again what it has just shown.
    """

    def __init__(
        self, engine: Engine, policy: StepPolicy, eos_ids: Collection[int], response_tokens: int | None = None
    ):
        self._engine, self._policy, self._response_tokens = engine, policy, response_tokens
        self._eos_ids = frozenset(int(token) for token in eos_ids)
        self._version: Any = None
        self.clear()

    def clear(self) -> None:
        """Forget what is decoded, and what is known of the rows."""
        self._decoded: dict[bytes, deque[_Continuation]] = {}
        self._single: dict[bytes, torch.Tensor] = {}  # features [F] of the rows that got one token in the last step
        self._last: list[bytes] = []  # what each row showed in the last step
        self._ends: list[bytes | None] = []  # what it shows next if nothing follows, where its response is over
        self.look_ahead(None, None)

    def look_ahead(self, steps: int | None, upcoming: Upcoming | None) -> None:
        """Say how many steps come before the weights change, and which prompts rows show when their responses end.

        No token is then decoded that no step can serve, and the responses to new prompts are decoded together, which
        rows would else ask for one by one. None: not known. It holds for `steps`, or until `clear`.
        """
        self._steps, self._upcoming = steps, upcoming

    def step(self, observations: torch.Tensor, *, deterministic: bool) -> Sample:
        """Draw the next token of observations int64 [N, L], right-padded with -1."""
        version = (self._policy._decoded_version(), deterministic)
        if version != self._version or len(self._decoded) > KEPT:
            self._decoded, self._single, self._version = {}, {}, version
        shown = _Shown.of(observations)
        found = [self._take(key) for key in shown.keys]
        missing = [row for row, continuation in enumerate(found) if continuation is None]
        single = [row for row in missing if self._needs_one(shown, row)]
        if asked := sorted(set(missing) - set(single)):
            for row, decoded in zip(asked, self._decode(shown, asked, found, deterministic), strict=True):
                found[row] = decoded
        tokens, log_probs = np.zeros(len(found), dtype=np.int64), np.zeros(len(found), dtype=np.float32)
        self._draw_single(shown, single, tokens, log_probs, deterministic)
        self._last, self._ends = shown.keys, [None] * len(found)
        for row, continuation in enumerate(found):
            if continuation is not None:
                tokens[row], log_probs[row] = continuation.tokens.popleft(), continuation.log_probs.popleft()
            following = shown.keys[row] + tokens[row].tobytes()
            if continuation is not None and continuation.tokens:
                self._keep(following, continuation)
            elif tokens[row] in self._eos_ids or (continuation is not None and continuation.ends):
                self._ends[row] = following
        if self._steps is not None:
            self.look_ahead(*(self._steps - 1, self._upcoming) if self._steps > 1 else (None, None))
        return Sample(*(torch.from_numpy(column).to(observations.device) for column in (tokens, log_probs)))

    def _take(self, key: bytes) -> _Continuation | None:
        waiting = self._decoded.get(key)
        if waiting is None:
            return None
        continuation = waiting.popleft()
        if not waiting:
            del self._decoded[key]
        return continuation

    def _keep(self, key: bytes, continuation: _Continuation) -> None:
        self._decoded.setdefault(key, deque()).append(continuation)

    def _limit(self, length: int, max_length: int, steps: int | None) -> int:
        """Tokens that can be served behind `length` ids, within so many steps."""
        bounds = (max_length - length, self._response_tokens, steps)
        return min(bound for bound in bounds if bound is not None)

    def _needs_one(self, shown: _Shown, row: int) -> bool:
        """Whether a row that nothing was decoded for gets one token alone."""
        if self._limit(int(shown.lengths[row]), shown.ids.shape[1], self._steps) <= 1:
            return True
        same_rows = len(self._last) == len(shown.keys)
        return same_rows and shown.keys[row] in (self._last[row], self._ends[row])

    def _draw_single(
        self, shown: _Shown, rows: list[int], tokens: np.ndarray, log_probs: np.ndarray, deterministic: bool
    ) -> None:
        """Write one token and its log-probability for each of `rows`."""
        known = {shown.keys[row]: self._single.get(shown.keys[row]) for row in rows}
        self._single = {}
        if not rows:
            return
        if new := [row for row in rows if known[shown.keys[row]] is None]:
            for row, state in zip(new, self._policy._prefix_features(torch.from_numpy(shown.ids[new])), strict=True):
                known[shown.keys[row]] = state
        self._single = {key: state for key, state in known.items() if state is not None}
        states = torch.stack([self._single[shown.keys[row]] for row in rows])
        drawn = self._policy._draw(states, deterministic=deterministic)
        tokens[rows], log_probs[rows] = drawn.tokens.numpy(force=True), drawn.log_probs.numpy(force=True)

    def _decode(
        self, shown: _Shown, asked: list[int], found: list[_Continuation | None], deterministic: bool
    ) -> list[_Continuation]:
        """Continuations of the rows `asked`; those of upcoming prompts are decoded with them, and kept."""
        max_length = shown.ids.shape[1]
        requests = [
            Request(shown.ids[row, :length].tolist(), self._limit(length, max_length, self._steps))
            for row, length in zip(asked, shown.lengths[asked].tolist(), strict=True)
        ]
        prompts = self._prompts_to_come(found, max_length)
        responses = self._engine.respond([*requests, *prompts], deterministic=deterministic)
        made = [
            self._continuation(request, response, max_length)
            for request, response in zip([*requests, *prompts], responses, strict=True)
        ]
        for prompt, continuation in zip(prompts, made[len(asked) :], strict=True):
            self._keep(np.array(prompt.ids, dtype=np.int64).tobytes(), continuation)
        return made[: len(asked)]

    def _prompts_to_come(self, found: list[_Continuation | None], max_length: int) -> list[Request]:
        """Requests for prompts that rows are sure to show behind their present responses, unless they are decoded."""
        if self._upcoming is None:
            return []
        if self._steps is None:  # every row ends some time
            coming = [(0, row) for _ in range(AHEAD_RESPONSES) for row in range(len(found))]
        else:
            over = [(len(left), row) for row, left in enumerate(found) if left is not None and left.ends]
            coming = sorted((begins, row) for begins, row in over if begins < self._steps)
        requests: list[Request] = []
        wanted: Counter[bytes] = Counter()
        for (begins, _), ids in zip(coming, self._upcoming([row for _, row in coming]), strict=False):
            key = np.asarray(ids, dtype=np.int64).tobytes()
            wanted[key] += 1
            steps = None if self._steps is None else self._steps - begins
            limit = self._limit(len(ids), max_length, steps)
            if wanted[key] > len(self._decoded.get(key, ())) and limit > 0:
                requests.append(Request([int(token) for token in ids], limit))
        return requests

    def _continuation(self, request: Request, response: Response, max_length: int) -> _Continuation:
        tokens, log_probs = response
        whole = len(tokens) == self._response_tokens or len(request.ids) + len(tokens) >= max_length
        return _Continuation(deque(tokens), deque(log_probs), whole or tokens[-1] in self._eos_ids)
