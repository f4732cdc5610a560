"""A charge for responses that come close to a limit of tokens, which grows before they are cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.user_values import whole_number


class OverlongReward:
    """0 up to `limit - margin` tokens, falling linearly to -1 at `limit`, and -1 beyond.

    The soft overlong punishment of DAPO (Yu et al. 2025, equation 13, https://arxiv.org/abs/2503.14476). Tokens are
    those of `completion_ids`, the EOS among them.

    Raises ConfigError where limit or margin is no whole number >= 1, or the margin exceeds the limit.
    """

    __name__ = "overlong"

    def __init__(self, limit: int = 64, margin: int = 16):
        self.limit, self.margin = whole_number("limit", limit), whole_number("margin", margin)
        if self.margin > self.limit:
            raise ConfigError(f"margin must not exceed the limit of {self.limit} tokens, got {self.margin}")

    def __call__(
        self, prompts: list[Any], completions: list[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float]:
        """n scores in [-1, 0]."""
        beyond = [len(ids) - (self.limit - self.margin) for ids in completion_ids]
        return [-min(max(each / self.margin, 0.0), 1.0) for each in beyond]

    def __repr__(self) -> str:
        return f"OverlongReward(limit={self.limit}, margin={self.margin})"


REWARD = OverlongReward
