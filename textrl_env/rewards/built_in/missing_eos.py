"""A charge for responses that the limit cut off: a policy that never stops is not rewarded for rambling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.user_values import finite_number


class MissingEosReward:
    """-penalty for a response that ended at the length limit, 0 for one that ended by EOS or a stop string.

    The environment says why an episode ended (`finish_reason`). Where nobody does, as in a trainer of TRL that gets
    this reward by hand, a response has ended if the last of its `completion_ids` is one of `eos_ids`.

    Raises ConfigError for a penalty that is not a finite number >= 0; at a call also where neither is known.
    """

    __name__ = "missing_eos"

    def __init__(self, penalty: float = 1.0, eos_ids: Iterable[int] | None = None):
        self.penalty = finite_number("penalty", penalty)
        if self.penalty < 0:
            raise ConfigError(f"penalty must be >= 0, got {shown(penalty)}")
        self.eos_ids = None if eos_ids is None else frozenset(eos_ids)

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        finish_reason: Sequence[str] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        """n scores, -penalty or 0."""
        if finish_reason is not None:
            ended = [reason != "length" for reason in finish_reason]
        elif self.eos_ids is not None and completion_ids is not None:
            ended = [len(ids) > 0 and ids[-1] in self.eos_ids for ids in completion_ids]
        else:
            raise ConfigError(
                "reward 'missing_eos' must know how responses ended: call it with finish_reason, as environments do, "
                "or make it with eos_ids and call it with completion_ids"
            )
        return [0.0 if each else -self.penalty for each in ended]

    def __repr__(self) -> str:
        return f"MissingEosReward(penalty={self.penalty:g})"


REWARD = MissingEosReward
