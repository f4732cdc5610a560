"""An episode that is over in a row of a TextVecEnv, from the environment to whoever charges its deferred KL."""

from __future__ import annotations

from typing import Any, NamedTuple

from textrl_env.trajectory import Trajectory


class EndedRow(NamedTuple):
    """An episode that is over, and the `info` that SB3 got of its end."""

    row: int
    episode: Trajectory  # the environment's; without a finish reason where a time limit cut it off
    info: dict[str, Any]

    def report(self, kl_sum: float) -> None:
        """Take the deferred KL off the returns that are logged. kl_sum: nats, over the whole episode."""
        cost = self.episode.kl_coef * kl_sum
        self.info["episode"]["r"] -= cost
        if self.episode.finish_reason:
            self.info["kl_sum"] = kl_sum
            self.info["episode_return"] -= cost
