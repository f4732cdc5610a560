"""A server as a reward: prompts and responses go to it in batches, and scores come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown
from textrl_env.rewards.protocol import Scores
from textrl_env.rewards.remote.answer import checked_scores, checked_token_scores
from textrl_env.rewards.remote.connection import Connection
from textrl_env.text.chat_text import completion_text, prompt_text
from textrl_env.user_values import whole_number

SHAPES = ("textrl", "openrlhf")


class RemoteReward:
    """The scores that a server gives, such as `textrl reward serve`.

    shape: what is sent and answered, as JSON by POST.
        "textrl": `{"prompts": [...], "completions": [...], "columns": {name: [...]}}` -> `{"rewards": [...]}`, with
        texts or chats as rewards get them. "openrlhf": `{"query": [...], "prompts": [...], "labels": [...]}` ->
        `{"rewards": [...]}`, which OpenRLHF's reward servers take; a query is prompt + response, a chat's texts are
        joined by newlines, and the labels are the column of that name, "" where there is none. An answer may have
        `parts` (or `extra_logs`) too: name -> n numbers.
    tokens: whether the server scores tokens as well, in our own shape alone. It is then asked at every step about the
        rows that are still running, `{"prompts": [...], "completion_ids": [[...]], "columns": {...}}` ->
        `{"token_rewards": [...]}`: the score of each row's newest token. At an episode's end it is asked as above, with
        `"tokens": true`, for what it pays for the whole response.
    columns: those of the prompts' columns that are sent along in our own shape; none by default.
    token_env, header: the environment variable that holds a token, and the header it is sent in, as "Bearer TOKEN" in
        Authorization. The token itself is in no setting, message or pickle, and goes unencrypted to this machine alone.
    batch_size: samples of a request. retries: attempts after the first, with exponential backoff and jitter, where the
        server cannot be reached, is slow, answers 429 or 5xx, or breaks off; a wait is as long as Retry-After says at
        least, and where that is longer than the time there is, the request fails at once.
    connect_timeout, read_timeout: seconds to connect, and to wait for the next bytes. timeout: seconds of all attempts
        of a request. max_bytes: of an answer.

    A server that fails is a RewardError that names its address and the samples, never a score. Raises ConfigError for
    an address or another argument that cannot work, or a token that is not there; and MissingExtra without urllib3.
    """

    def __init__(
        self,
        url: str,
        *,
        shape: str = "textrl",
        tokens: bool = False,
        columns: Sequence[str] = (),
        token_env: str | None = None,
        header: str = "Authorization",
        batch_size: int = 64,
        retries: int = 4,
        connect_timeout: float = 5.0,
        read_timeout: float = 60.0,
        timeout: float = 180.0,
        max_bytes: int = 2**24,
    ):
        if shape not in SHAPES:
            raise UnknownName("shape of a reward server's requests", shape, SHAPES)
        if not isinstance(tokens, bool):
            raise ConfigError(f"tokens must be true or false, got {shown(tokens)}")
        if tokens and shape != "textrl":
            raise ConfigError(f"the shape {shape!r} has no scores of tokens; leave out tokens=, or take shape='textrl'")
        if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
            raise ConfigError(f"columns must be a list of columns' names, got {shown(columns)}")
        self.shape, self.tokens, self.columns = shape, tokens, tuple(columns)
        self.batch_size = whole_number("batch_size", batch_size)
        self._connection = Connection(
            url,
            token_env=token_env,
            header=header,
            retries=retries,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            timeout=timeout,
            max_bytes=max_bytes,
        )
        self.__name__ = "remote"

    @property
    def url(self) -> str:
        """The address, without its query."""
        return self._connection.shown_url

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """One score per completion."""
        scores: list[float] = self.detailed(prompts, completions, **columns).scores.tolist()
        return scores

    def detailed(self, prompts: list[Any], completions: list[Any], **columns: Any) -> Scores:
        """The scores, and the parts that the server gave."""
        batches = [
            self._batch(prompts[rows], completions[rows], some, samples)
            for rows, some, samples in self._batches(len(completions), columns)
        ]
        if not batches:
            return Scores(np.empty(0), {})
        names = [name for name in batches[0].parts if all(name in batch.parts for batch in batches)]
        parts = {name: np.concatenate([batch.parts[name] for batch in batches]) for name in names}
        return Scores(np.concatenate([batch.scores for batch in batches]), parts)

    @property
    def score_tokens(self) -> Callable[..., list[float]] | None:
        """None without `tokens`."""
        return self._score_tokens if self.tokens else None

    def _score_tokens(self, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        scores = []
        for rows, some, samples in self._batches(len(completion_ids), columns):
            ids = [[int(token) for token in each] for each in completion_ids[rows]]
            payload = {"prompts": prompts[rows], "completion_ids": ids, "columns": self._sent(some)}
            answer = self._connection.post(payload, samples, len(ids))
            scores += checked_token_scores(answer, len(ids), f"reward server {self.url} ({samples})")
        return scores

    def _batches(self, count: int, columns: dict[str, Any]) -> Iterator[tuple[slice, dict[str, Any], str]]:
        """The rows of each request, their columns, and how errors call them."""
        for start in range(0, count, self.batch_size):
            rows = slice(start, min(start + self.batch_size, count))
            some = {name: values[rows] for name, values in columns.items() if name in (*self.columns, "labels")}
            yield rows, some, f"samples {rows.start} to {rows.stop - 1} of {count}"

    def _batch(self, prompts: list[Any], completions: list[Any], columns: dict[str, Any], samples: str) -> Scores:
        sent = self._sent(columns)
        count = len(completions)
        payload = self._openrlhf(prompts, completions, columns) if self.shape == "openrlhf" else None
        if payload is None:
            payload = {"prompts": prompts, "completions": completions, "columns": sent}
            payload |= {"tokens": True} if self.tokens else {}
        answer = self._connection.post(payload, samples, count)
        return checked_scores(answer, count, f"reward server {self.url} ({samples})")

    def _sent(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The columns that the server gets. Raises ConfigError where one is not there."""
        if missing := [name for name in self.columns if name not in columns]:
            raise ConfigError(f"reward server {self.url} is to get the column {missing[0]!r}, which the prompts lack")
        return {name: columns[name] for name in self.columns}

    @staticmethod
    def _openrlhf(prompts: list[Any], completions: list[Any], columns: dict[str, Any]) -> dict[str, Any]:
        asked = [prompt_text(prompt) for prompt in prompts]
        queries = [prompt + completion_text(answer) for prompt, answer in zip(asked, completions, strict=True)]
        return {"query": queries, "prompts": asked, "labels": columns.get("labels", [""] * len(asked))}

    def __repr__(self) -> str:
        tokens = ", tokens=True" if self.tokens else ""
        return f"RemoteReward({self.url!r}, shape={self.shape!r}{tokens}, batch_size={self.batch_size})"
