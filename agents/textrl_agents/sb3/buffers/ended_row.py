"""An episode that is over in a row of a TextVecEnv, from the environment to whoever charges its deferred KL."""

from __future__ import annotations

from typing import Any, NamedTuple

from textrl_env.mdp import Episode


class EndedRow(NamedTuple):
    """An episode that is over, and the `info` that SB3 got of its end."""

    row: int
    episode: Episode | None  # None where a time limit cut it off: it has no score
    kl_coef: float
    info: dict[str, Any]

    def charge(self, kl_sum: float) -> None:
        """Take the deferred KL off the returns that are logged. kl_sum: nats, over the whole episode."""
        cost = self.kl_coef * kl_sum
        self.info["episode"]["r"] -= cost
        if self.episode is not None:
            self.episode.kl_sum = self.info["kl_sum"] = kl_sum
            self.episode.episode_return -= cost
            self.info["episode_return"] = self.episode.episode_return
