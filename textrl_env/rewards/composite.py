"""Several rewards as one: their weighted sum, with each one's own score kept."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.rewards.protocol import Scores, reward_name
from textrl_env.rewards.scoring import score_episodes, score_newest_tokens

Part = Any  # a reward, or (reward, weight)


class CompositeReward:
    """score = sum over parts of weight * the part's score, for whole episodes and for tokens alike.

    `detailed` keeps each part's score before its weight, under the part's name; a part that has components
    itself adds them as `name/component`. Each part gets its own copies of the arguments and its own checks,
    so an error names the part it came from.

    parts: a list of `reward` or `(reward, weight)`, or a dict from names to these. Weights are 1 by default. In a list
        a reward's name is its `__name__`; a name that comes again gets `_2`, `_3`, ... behind it.

    Raises ConfigError where there are no parts, a part is not callable, or a weight is not a finite number.
    """

    def __init__(self, parts: Sequence[Part] | Mapping[str, Part], *, name: str = "composite"):
        if isinstance(parts, Mapping):
            named = [(str(key), *_split(part)) for key, part in parts.items()]
        elif isinstance(parts, (list, tuple)):
            split = [_split(part) for part in parts]
            names = _unique([reward_name(reward) for reward, _ in split])
            named = [(key, *pair) for key, pair in zip(names, split, strict=True)]
        else:
            raise ConfigError(f"parts must be a list or a dict of rewards, got {type(parts).__name__}")
        if not named:
            raise ConfigError("a composite reward needs at least one part, got none")
        self.__name__ = name
        self.rewards: dict[str, Callable[..., Any]] = {key: reward for key, reward, _ in named}
        self.weights: dict[str, float] = {key: weight for key, _, weight in named}

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """The weighted sums."""
        return list(map(float, self.detailed(prompts, completions, **columns).scores))

    def detailed(self, prompts: list[Any], completions: list[Any], **columns: Any) -> Scores:
        """The weighted sums, and each part's scores before its weight."""
        completion_ids = columns.pop("completion_ids", None)
        total = np.zeros(len(prompts))
        parts: dict[str, np.ndarray] = {}
        for name, reward in self.rewards.items():
            scored = score_episodes(reward, prompts, completions, completion_ids, columns)
            total += self.weights[name] * scored.scores
            parts[name] = scored.scores
            parts.update({f"{name}/{part}": scores for part, scores in scored.parts.items()})
        return Scores(total, parts)

    @property
    def score_tokens(self) -> Callable[..., list[float]] | None:
        """None if no part scores tokens, so that the environment need not ask at every step."""
        has_any = any(getattr(reward, "score_tokens", None) is not None for reward in self.rewards.values())
        return self._score_tokens if has_any else None

    def _score_tokens(self, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        total = np.zeros(len(prompts))
        for name, reward in self.rewards.items():
            scores = score_newest_tokens(reward, prompts, completion_ids, columns)
            if scores is not None:
                total += self.weights[name] * scores
        return total.tolist()

    def __repr__(self) -> str:
        return "CompositeReward(" + " + ".join(f"{w:g} * {name}" for name, w in self.weights.items()) + ")"


def _split(part: Part) -> tuple[Callable[..., Any], float]:
    reward, weight = part if isinstance(part, tuple) and len(part) == 2 else (part, 1.0)
    if not callable(reward):
        raise ConfigError(
            f"a part of a composite reward must be a reward or (reward, weight), got {shown(part)}; "
            "make_reward makes rewards from names and paths"
        )
    is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not is_number or not abs(weight) <= sys.float_info.max:
        raise ConfigError(f"the weight of reward {reward_name(reward)!r} must be a finite number, got {shown(weight)}")
    return reward, float(weight)


def _unique(names: list[str]) -> list[str]:
    unique: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in unique:
            number += 1
            candidate = f"{name}_{number}"
        unique.append(candidate)
    return unique
