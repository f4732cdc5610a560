"""An episode that is over in a row of a TextVecEnv, from the environment to whoever charges its deferred KL."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from textrl_env.trajectory import Trajectory


class EndedRow(NamedTuple):
    """An episode that is over, and the `info` that SB3 got of its end."""

    row: int
    episode: Trajectory | None  # None where a time limit cut it off: it has no score
    kl_coef: float
    info: dict[str, Any]

    def charge(self, kl_sum: float) -> None:
        """Take the deferred KL off the returns that are logged. kl_sum: nats, over the whole episode."""
        cost = self.kl_coef * kl_sum
        self.info["episode"]["r"] -= cost
        if self.episode is not None:
            # Spread evenly, since the terms of earlier rollouts are known as a sum alone.
            self.episode.charge(np.full(len(self.episode), kl_sum / len(self.episode)))
            self.info["kl_sum"] = kl_sum
            self.info["episode_return"] = self.episode.episode_return
