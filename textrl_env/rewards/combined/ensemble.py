"""Several models of one thing as one reward: where they disagree, none of them is to be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.rewards.combined.parts import Parts, named_parts
from textrl_env.rewards.protocol import Scores
from textrl_env.rewards.scoring import score_episodes, score_newest_tokens
from textrl_env.user_values import finite_number

COMBINATIONS = ("mean", "worst", "uncertainty")
_MEAN, _SPREAD = "mean", "spread"  # names of components beside the members'


class EnsembleReward(Parts):
    """The mean of its members' scores, the least of them, or the mean minus a charge for their variance.

    combine: "mean", "worst", or "uncertainty": mean - coefficient * variance, where the variance is that of the
        members' scores of one response (1/k sum (score - mean)^2). Worst-case and uncertainty-weighted optimisation are
        those of Coste et al. 2023 (https://arxiv.org/abs/2310.02743).
    members: two or more rewards, as a list or under names. Give them one scale (`NormalizedReward`): the spread is in
        units of the score.

    `detailed` gives each member's score under its name, their `mean`, and their `spread`: the standard deviation, so
    the root of that variance. Per-token scores are combined in the same way token by token, so that their sum is not
    what combining the members' sums would give, but for the mean. All members must score tokens, or none.

    Raises ConfigError for fewer than two members, a member that is not callable or whose name is taken, members of
    which only some score tokens, or a coefficient that is not a finite number >= 0; UnknownName for another `combine`.
    """

    def __init__(
        self,
        members: Sequence[Any] | Mapping[str, Any],
        combine: str = "mean",
        coefficient: float = 0.5,
        *,
        name: str = "ensemble",
    ):
        if combine not in COMBINATIONS:
            raise UnknownName("way to combine an ensemble", combine, COMBINATIONS)
        self.combine, self.coefficient = combine, finite_number("coefficient", coefficient)
        if self.coefficient < 0:
            raise ConfigError(f"coefficient must be >= 0, got {coefficient!r}: members that disagree would be sought")
        self.rewards = named_parts(members, "member of an ensemble")
        if len(self.rewards) < 2:
            raise ConfigError(f"an ensemble needs at least two members, got {len(self.rewards)}")
        if taken := {_MEAN, _SPREAD} & self.rewards.keys():
            raise ConfigError(f"a member of an ensemble cannot be named {min(taken)!r}: the ensemble's own part is")
        scoring = [name for name, reward in self.rewards.items() if _scores_tokens(reward)]
        if scoring and len(scoring) < len(self.rewards):
            raise ConfigError(f"all members of an ensemble must score tokens, or none; only {', '.join(scoring)} do")
        self.__name__ = name

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """The combined scores."""
        scores: list[float] = self.detailed(prompts, completions, **columns).scores.tolist()
        return scores

    def detailed(self, prompts: list[Any], completions: list[Any], **columns: Any) -> Scores:
        """The combined scores; and each member's, with their mean and spread."""
        completion_ids = columns.pop("completion_ids", None)
        parts: dict[str, np.ndarray] = {}
        rows = []
        for name, reward in self.rewards.items():
            scored = score_episodes(reward, prompts, completions, completion_ids, columns)
            rows.append(scored.scores)
            parts[name] = scored.scores
            parts.update({f"{name}/{part}": scores for part, scores in scored.parts.items()})
        by_member = np.stack(rows)  # (k, n)
        parts |= {_MEAN: by_member.mean(axis=0), _SPREAD: by_member.std(axis=0)}
        return Scores(combined(by_member, self.combine, self.coefficient), parts)

    @property
    def score_tokens(self) -> Callable[..., list[float]] | None:
        """None where the members do not score tokens."""
        return self._score_tokens if _scores_tokens(next(iter(self.rewards.values()))) else None

    def _score_tokens(self, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        rows = [score_newest_tokens(reward, prompts, completion_ids, columns) for reward in self.rewards.values()]
        by_member = np.stack([row for row in rows if row is not None])
        scores: list[float] = combined(by_member, self.combine, self.coefficient).tolist()
        return scores

    def __repr__(self) -> str:
        charge = f", coefficient={self.coefficient:g}" if self.combine == "uncertainty" else ""
        return f"EnsembleReward([{', '.join(self.rewards)}], combine={self.combine!r}{charge})"


def combined(by_member: np.ndarray, combine: str, coefficient: float) -> np.ndarray:
    """The scores of an ensemble, float64 [n], of its members' [k, n]."""
    if combine == "worst":
        worst: np.ndarray = by_member.min(axis=0)
        return worst
    mean: np.ndarray = by_member.mean(axis=0)
    return mean - coefficient * by_member.var(axis=0) if combine == "uncertainty" else mean


def _scores_tokens(reward: Any) -> bool:
    return getattr(reward, "score_tokens", None) is not None
