"""The rows of `textrl bench speed` by name, known without torch."""

from __future__ import annotations

from collections.abc import Sequence

from textrl_env.errors import UnknownName

SPEED_NAMES = (
    "rollout vs by hand, equal lengths",
    "rollout vs by hand, to EOS",
    "stepping vs generate, equal lengths",
    "update vs one prefix per transition",
    "update time per token, long vs short",
    "update memory, chunked vs not",
    "vector env alone",
    "exact: PPO vs optimum",
    "demo: rise of held-out gold",
    "rllib: sampling vs SB3",
    "rllib: update vs its default pipeline",
    "rllib: ratio at the first minibatch",
    "rllib: exact, PPO vs optimum",
    "rllib: share of the rewarded token",
    "trl: RLOO, sampling and update",
    "trl: GRPO, sampling and update",
)


def chosen_names(only: str | Sequence[str] | None) -> list[str]:
    """The names that contain `only`, or one of several; all for None. Raises UnknownName where none does."""
    if only is None:
        return list(SPEED_NAMES)
    wanted = [only] if isinstance(only, str) else list(only)
    for part in wanted:
        if not any(part in name for name in SPEED_NAMES):
            raise UnknownName("measurement", part, SPEED_NAMES)
    return [name for name in SPEED_NAMES if any(part in name for part in wanted)]
