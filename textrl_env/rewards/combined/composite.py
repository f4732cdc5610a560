"""Several rewards as one: their weighted sum, with each one's own score kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.rewards.combined.parts import Parts, named_parts
from textrl_env.rewards.protocol import Scores, reward_name
from textrl_env.rewards.scoring import score_episodes, score_newest_tokens
from textrl_env.user_values import finite_number

Part = Any  # a reward, or (reward, weight)


class CompositeReward(Parts):
    """score = sum over parts of weight * the part's score, for whole episodes and for tokens alike.

    `detailed` keeps each part's score before its weight, under the part's name; a part that has components
    itself adds them as `name/component`. Each part gets its own copies of the arguments and its own checks,
    so an error names the part it came from.

    parts: a list of `reward` or `(reward, weight)`, or a dict from names to these. Weights are 1 by default. In a list
        a reward's name is its `__name__`; a name that comes again gets `_2`, `_3`, ... behind it.
    weights_column: a column of the prompts that gives each episode weights of its own, for several objectives at once:
        a mapping from parts' names to numbers (a part that is not in it keeps its weight), or a list of one for each
        part in their order. Put the weights into the prompt's text as well if the policy is to follow them.

    Raises ConfigError where there are no parts, a part is not callable, or a weight is not a finite number; at a call
    also where a prompt's weights cannot be used.
    """

    def __init__(
        self,
        parts: Sequence[Part] | Mapping[str, Part],
        *,
        weights_column: str | None = None,
        name: str = "composite",
    ):
        if isinstance(parts, Mapping):
            split: Any = {key: _split(part) for key, part in parts.items()}
            given: Any = {key: reward for key, (reward, _) in split.items()}
            weights = [weight for _, weight in split.values()]
        elif isinstance(parts, (list, tuple)):
            split = [_split(part) for part in parts]
            given, weights = [reward for reward, _ in split], [weight for _, weight in split]
        else:
            raise ConfigError(f"parts must be a list or a dict of rewards, got {type(parts).__name__}")
        if not given:
            raise ConfigError("a composite reward needs at least one part, got none")
        if weights_column is not None and (not isinstance(weights_column, str) or not weights_column):
            raise ConfigError(f"weights_column must be the name of a column, got {shown(weights_column)}")
        self.__name__ = name
        self.rewards = named_parts(given, "part of a composite reward")
        self.weights: dict[str, float] = dict(zip(self.rewards, weights, strict=True))
        self.weights_column = weights_column

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """The weighted sums."""
        return list(map(float, self.detailed(prompts, completions, **columns).scores))

    def detailed(self, prompts: list[Any], completions: list[Any], **columns: Any) -> Scores:
        """The weighted sums, and each part's scores before its weight."""
        completion_ids = columns.pop("completion_ids", None)
        weights = self._weights(columns, len(prompts))
        total = np.zeros(len(prompts))
        parts: dict[str, np.ndarray] = {}
        for name, reward in self.rewards.items():
            scored = score_episodes(reward, prompts, completions, completion_ids, columns)
            total += weights[name] * scored.scores
            parts[name] = scored.scores
            parts.update({f"{name}/{part}": scores for part, scores in scored.parts.items()})
        return Scores(total, parts)

    @property
    def score_tokens(self) -> Callable[..., list[float]] | None:
        """None if no part scores tokens, so that the environment need not ask at every step."""
        has_any = any(getattr(reward, "score_tokens", None) is not None for reward in self.rewards.values())
        return self._score_tokens if has_any else None

    def _score_tokens(self, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        weights = self._weights(columns, len(prompts))
        total = np.zeros(len(prompts))
        for name, reward in self.rewards.items():
            scores = score_newest_tokens(reward, prompts, completion_ids, columns)
            if scores is not None:
                total += weights[name] * scores
        return total.tolist()

    def _weights(self, columns: Mapping[str, Any], count: int) -> Mapping[str, float | np.ndarray]:
        """Part -> its weight, or float64 [n] where each episode has its own."""
        if self.weights_column is None:
            return self.weights
        if self.weights_column not in columns:
            raise ConfigError(
                f"reward {self.__name__!r} takes each episode's weights from the column {self.weights_column!r}, which "
                f"the prompts do not have (columns: {', '.join(sorted(columns)) or 'none'})"
            )
        rows = [self._row_weights(index, columns[self.weights_column][index]) for index in range(count)]
        return {name: np.array([row[name] for row in rows]) for name in self.rewards}

    def _row_weights(self, index: int, given: Any) -> dict[str, float]:
        where = f"the column {self.weights_column!r} of sample {index}"
        if isinstance(given, (list, tuple)) and len(given) == len(self.rewards):
            own = dict(zip(self.rewards, given, strict=True))
        elif isinstance(given, Mapping) and given.keys() <= self.rewards.keys():
            # A data set has one set of keys for all its rows, and fills those that a row lacks with None.
            own = {name: weight for name, weight in given.items() if weight is not None}
        else:
            raise ConfigError(
                f"{where} must hold a weight for each of {', '.join(self.rewards)}, as a list or a mapping from their "
                f"names; got {shown(given)}"
            )
        return {**self.weights, **{name: finite_number(f"{where}: {name}", weight) for name, weight in own.items()}}

    def __repr__(self) -> str:
        own = "" if self.weights_column is None else f", weights_column={self.weights_column!r}"
        return "CompositeReward(" + " + ".join(f"{w:g} * {name}" for name, w in self.weights.items()) + own + ")"


def _split(part: Part) -> tuple[Callable[..., Any], float]:
    reward, weight = part if isinstance(part, tuple) and len(part) == 2 else (part, 1.0)
    if not callable(reward):
        raise ConfigError(
            f"a part of a composite reward must be a reward or (reward, weight), got {shown(part)}; "
            "make_reward makes rewards from names and paths"
        )
    return reward, finite_number(f"the weight of reward {reward_name(reward)!r}", weight)
