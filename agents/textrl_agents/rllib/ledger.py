"""Which episode each stretch of a batch belongs to, and what its KL costs.

RLlib cuts episodes at fragments, and several learners get parts of the same episode. Every learner keeps the accounts
of all: they exchange their stretches, a few numbers each, once an update.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from textrl_agents.training.rlhf_metrics import EndedEpisode
from textrl_env.kl import KLPenalty

# Episodes in `rollout/ep_rew_mean`, as many as in SB3's.
RECENT = 100
# An episode whose next stretch does not come for so many updates was lost with its env runner.
FORGET_AFTER = 100


class Stretch(NamedTuple):
    """What one stretch adds to its episode's account."""

    episode_id: str
    kl: float  # nats; 0 where the environment charges
    surprisal: float  # -log pi of its tokens, nats
    reward: float  # the sum of what the environment paid
    tokens: int
    over: bool  # whether the episode ends here, or a time limit cuts it off
    final_info: Mapping[str, Any] | None  # the last step's info, where the episode ends here


class _Account(NamedTuple):
    kl: float
    surprisal: float
    kl_coef: float
    seen: int
    reward: float = 0.0
    tokens: int = 0


class EpisodeLedger:
    """Charges the deferred KL and keeps the sums of episodes that are still open.

    penalty: its coefficient is the one charged; an episode keeps the one in force at its start.
    deferred: False where the environment has charged already, and says so in `info`.
    """

    def __init__(self, penalty: KLPenalty, *, deferred: bool):
        self.penalty, self.deferred = penalty, deferred
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT)  # (return, tokens) of the last episodes
        self._open: dict[str, _Account] = {}
        self._updates = 0
        self._exchange = _Exchange()

    def kl_coef(self, episode_id: str) -> float:
        """The coefficient charged to an episode."""
        account = self._open.get(episode_id)
        return self.penalty.coef if account is None else account.kl_coef

    def settle(self, stretches: Sequence[Stretch]) -> list[EndedEpisode]:
        """Account for one batch; returns the episodes that ended in it, on whichever learner.

        An episode that a time limit cut off is charged and counted in `recent`, and is not among them: it has no score.
        """
        self._updates += 1
        ended = []
        for stretch in self._exchange(stretches):
            account = self._open.pop(stretch.episode_id, _Account(0.0, 0.0, self.penalty.coef, self._updates))
            account = _Account(
                account.kl + stretch.kl,
                account.surprisal + stretch.surprisal,
                account.kl_coef,
                self._updates,
                account.reward + stretch.reward,
                account.tokens + stretch.tokens,
            )
            if not stretch.over:
                self._open[stretch.episode_id] = account
                continue
            deferred_cost = account.kl_coef * account.kl if self.deferred else 0.0
            self.recent.append((account.reward - deferred_cost, account.tokens))
            info = stretch.final_info
            if info is None:
                continue  # cut off: it has no score
            kl, kl_coef = account.kl, account.kl_coef
            if not self.deferred:
                kl, kl_coef = float(info["kl_sum"]), float(info["kl_coef"])
                self.penalty.controller.value = kl_coef  # the environment's own, which adapts there
            ended.append(EndedEpisode.of(info, charged=kl, kl_coef=kl_coef, surprisal=account.surprisal))
        if self.deferred and ended:
            self.penalty.update(float(np.mean([episode.charged for episode in ended])), len(ended))
        forgotten = self._updates - FORGET_AFTER
        self._open = {name: account for name, account in self._open.items() if account.seen > forgotten}
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and text."""
        accounts = {name: list(account) for name, account in self._open.items()}
        recent = [list(entry) for entry in self.recent]
        return {"open": accounts, "recent": recent, "updates": self._updates, "kl_coef": self.penalty.coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._open = {name: _Account(*account) for name, account in state["open"].items()}
        self.recent = deque((tuple(entry) for entry in state["recent"]), maxlen=RECENT)
        self._updates = int(state["updates"])
        self.penalty.controller.value = float(state["kl_coef"])


class _Exchange:
    """Stretches of all learners, over a process group of its own: RLlib's learners talk on theirs in another thread."""

    def __init__(self) -> None:
        self._group: Any = None

    def __call__(self, stretches: Sequence[Stretch]) -> list[Stretch]:
        """In an order that puts the end of an episode after its other stretches."""
        gathered: list[Any] = [list(stretches)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            if self._group is None:
                self._group = torch.distributed.new_group(backend="gloo")
            gathered = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, list(stretches), group=self._group)
        everything = (stretch for part in gathered for stretch in part)
        return sorted(everything, key=lambda stretch: stretch.over)
