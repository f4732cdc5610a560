"""What happened in an episode: its ids, which of them the policy chose, and what was seen of each choice.

This one record passes between the environment, the buffers of every adapter, the KL, the rewards and evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

# One entry an action.
COLUMNS = ("log_probs", "rewards", "kl", "values")
UNKNOWN = np.empty(0)  # stands for a column of NaN


class Paid(NamedTuple):
    """What of a score was paid before the episode's end: by a reward that scores tokens, and by a turn environment."""

    total: float = 0.0
    parts: Mapping[str, float] = MappingProxyType({})  # by name; not all of them need to add up to it

    def with_parts(self, parts: Mapping[str, float]) -> dict[str, float]:
        """These parts behind those of a reward; one whose name a reward has too is named as the turns'."""
        own = {f"turns/{name}" if name in parts else name: value for name, value in self.parts.items()}
        return {**parts, **own}


@dataclass(eq=False, slots=True)
class Trajectory:
    """An episode, or a stretch of one, with M actions among its T ids.

    The other ids are the prompt, and what the environment wrote between two actions. A stretch holds all ids from the
    episode's beginning on, and counts only its own actions as such. A column that is not known is NaN.
    """

    ids: np.ndarray  # int64 [T]
    is_action: np.ndarray  # bool [T]; never the first id, since an action follows a state
    log_probs: np.ndarray = field(default_factory=lambda: UNKNOWN)  # float [M], nats, the policy's when it acted
    rewards: np.ndarray = field(default_factory=lambda: UNKNOWN)  # float [M]
    kl: np.ndarray = field(default_factory=lambda: UNKNOWN)  # float [M], nats, before `kl_coef`
    values: np.ndarray = field(default_factory=lambda: UNKNOWN)  # float [M], of the states before the actions
    kl_coef: float = 0.0
    group: int | None = None  # of the responses to one prompt, where prompts are served in groups
    prompt: Any = None  # str, or chat messages
    response: str = ""
    finish_reason: str = ""  # "eos", "stop", "length", "env" or "turns"; "" where it goes on or was cut off
    score: float = math.nan  # NaN where it was not scored
    score_parts: dict[str, float] = field(default_factory=dict)
    gold_score: float | None = None
    score_pending: int | None = None  # while its score waits to be asked for: its place among those that do
    turns: list[dict[str, Any]] | None = None  # what was said and paid in each, where a turn environment answers
    success: bool | None = None  # what the turn environment says of it

    def __post_init__(self) -> None:
        for name in COLUMNS:
            if getattr(self, name) is UNKNOWN:
                setattr(self, name, np.full(int(self.is_action.sum()), np.nan))

    @classmethod
    def of_response(cls, prompt_ids: np.ndarray, response_ids: np.ndarray, **known: Any) -> Trajectory:
        """A prompt's ids int64 [P], then actions alone, int64 [M]. known: other fields."""
        ids = np.concatenate([prompt_ids, response_ids])
        return cls(ids, np.arange(len(ids)) >= len(prompt_ids), **known)

    def __len__(self) -> int:
        """Its actions, M."""
        return len(self.rewards)

    @property
    def prompt_ids(self) -> np.ndarray:
        """What stands before the first action, int64 [P]."""
        before: np.ndarray = self.ids[: int(self.is_action.argmax())]
        return before

    @property
    def response_ids(self) -> np.ndarray:
        """The actions, int64 [M]."""
        chosen: np.ndarray = self.ids[self.is_action]
        return chosen

    @property
    def kl_sum(self) -> float:
        """What was charged, nats, without the coefficient; NaN until it is known."""
        return float(np.add.reduce(self.kl))

    @property
    def surprisal(self) -> float:
        """`-log pi` of all actions, nats; its mean over episodes is the entropy of a response."""
        return float(-self.log_probs.sum(dtype=np.float64))

    @property
    def episode_return(self) -> float:
        """The sum of the rewards."""
        return float(np.add.reduce(self.rewards))

    @property
    def completion(self) -> Any:
        """The response as a reward gets it: its text, or, of a chat of several turns, the messages from then on."""
        if self.turns is None or isinstance(self.prompt, str):
            return self.response
        messages = []
        for turn in self.turns:
            messages.append({"role": "assistant", "content": turn["action"]})
            messages.append({"role": turn["role"], "content": turn["reply"]})
        return messages[:-1]  # nothing follows the last turn

    def charge(self, kl: np.ndarray) -> None:
        """Take `kl_coef * kl` off the rewards, in their own precision. kl: float [M], nats."""
        self.kl = kl
        self.rewards = (self.rewards - self.kl_coef * kl).astype(self.rewards.dtype)

    def pay(self, score: float, parts: dict[str, float], gold_score: float | None, paid: Paid) -> None:
        """Fill in a score that was asked for after the end, and pay it on the last action.

        score, parts: what the reward says of the response. paid: what was paid as the tokens came, which counts to the
            score.
        """
        self.score, self.gold_score, self.score_pending = score + paid.total, gold_score, None
        self.score_parts = paid.with_parts(parts)
        self.rewards[-1] += self.score - paid.total

    def extended(self, other: Trajectory) -> Trajectory:
        """Join this stretch and another of the same episode; every field but the columns is the later one's."""
        earlier, later = (self, other) if len(self.ids) <= len(other.ids) else (other, self)
        order = np.concatenate([np.flatnonzero(each.is_action) for each in (earlier, later)]).argsort(kind="stable")
        is_action = later.is_action.copy()
        is_action[: len(earlier.is_action)] |= earlier.is_action
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(earlier, name), getattr(later, name)])[order] for name in COLUMNS
        }
        return replace(later, is_action=is_action, **columns)

    def with_actions(self, ids: np.ndarray, is_action: np.ndarray) -> Trajectory:
        """What is known of this episode, with these ids and actions; no columns."""
        unknown: dict[str, Any] = dict.fromkeys(COLUMNS, UNKNOWN)
        return replace(self, ids=ids, is_action=is_action, **unknown)

    def with_last_state(self) -> Trajectory:
        """The same ids and an arbitrary action behind them, so that the last state is one of an action; no columns."""
        return Trajectory(np.append(self.ids, 0), np.append(self.is_action, True))

    def info(self) -> dict[str, Any]:
        """The keys that `info` has at an episode's end."""
        info = {
            "prompt": self.prompt,
            "response": self.response,
            "finish_reason": self.finish_reason,
            "score": self.score,
            "score_parts": dict(self.score_parts),
            "kl_sum": self.kl_sum,
            "kl_coef": self.kl_coef,
            "episode_return": self.episode_return,
            "episode_length": len(self),
        }
        optional = {
            "gold_score": self.gold_score,
            "group": self.group,
            "score_pending": self.score_pending,
            "turns": self.turns,
            "success": self.success,
        }
        return info | {name: value for name, value in optional.items() if value is not None}
