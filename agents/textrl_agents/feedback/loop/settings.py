"""What a loop is told, once: it goes on with the same settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown
from textrl_env.tasks.registry import check_task_name
from textrl_env.user_values import LARGEST_SEED, check_device_name, check_number, check_seed, check_whole

WAYS_TO_ASK = ("simulated", "page")
CONSENSUS = ("majority_vote", "dawid_skene", "noisy_bradley_terry")
MAY_CHANGE = ("rounds", "device")
"""Settings that a loop which goes on may be given anew: what was done stays as it was."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Everything that a loop depends on.

    rounds: of sampling, asking, learning and measuring. comparisons: questions of each round.
    ask: "simulated" annotators, or people on the "page". votes: annotators of each question; None for all of the
        simulated ones, and for one of the people.
    error_rates: one simulated annotator for each. ties: they call two responses equally good whose gold scores differ
        by no more than this.
    consensus: how the votes on a pair become one, see `consensus_comparisons`; None for Dawid and Skene's way where
        pairs have several votes.
    reward: keyword arguments of `train_reward_model`, such as `kind`.
    model: what the loop starts from, and what its report measures the KL from; None for the task's.
    timesteps: tokens of each round's PPO, which begins where the round before ended. kl_coef: its weight of the KL from
        there. n_envs, algorithm: see `TrainConfig`.
    episodes: held-out responses of each measurement. samples: prompts whose responses the report shows.

    Raises ConfigError, or UnknownName, where a value cannot be.
    """

    task: str = "sentiment"
    rounds: int = 2
    comparisons: int = 400
    ask: str = "simulated"
    votes: int | None = None
    error_rates: tuple[float, ...] = (0.1, 0.1, 0.1)
    ties: float = 0.0
    consensus: str | None = None
    reward: Mapping[str, Any] = field(default_factory=lambda: {"kind": "classifier"})
    model: str | None = None
    timesteps: int = 32_768
    kl_coef: float = 0.05
    n_envs: int = 64
    algorithm: Mapping[str, Any] = field(default_factory=lambda: {"n_epochs": 2})
    episodes: int = 256
    samples: int = 4
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_task_name(self.task)
        check_device_name(self.device)
        for name, value, known in (("ask", self.ask, WAYS_TO_ASK), ("consensus", self.consensus, CONSENSUS)):
            if value not in known and not (name == "consensus" and value is None):
                raise UnknownName(name, value, known)
        least = {"rounds": 1, "comparisons": 2, "timesteps": 1, "n_envs": 1, "episodes": 2, "samples": 0}
        for name, lowest in least.items():
            check_whole(name, getattr(self, name), lowest)
        check_seed(self.seed, LARGEST_SEED)
        check_number("kl_coef", self.kl_coef, 0)
        check_number("ties", self.ties, 0)
        if not isinstance(self.error_rates, (tuple, list)) or not self.error_rates:
            raise ConfigError(f"error_rates must hold a rate for each annotator, got {shown(self.error_rates)}")
        object.__setattr__(self, "error_rates", tuple(self.error_rates))
        for rate in self.error_rates:
            check_number("an error rate", rate, 0, 1)
        if self.votes is not None:
            check_whole("votes", self.votes, 1)
            if self.ask == "simulated" and self.votes > len(self.error_rates):
                raise ConfigError(f"votes={self.votes} are wanted of {len(self.error_rates)} simulated annotators")

    @property
    def votes_wanted(self) -> int:
        """Annotators of each question."""
        return self.votes or (len(self.error_rates) if self.ask == "simulated" else 1)

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and dicts only."""
        values = dataclasses.asdict(self)
        return {**values, "error_rates": list(self.error_rates)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> LoopSettings:
        """Make them of a mapping. Raises ConfigError for a name that is none of theirs."""
        known = {entry.name for entry in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UnknownName("setting of a loop", unknown[0], known)
        return cls(**values)

    def require_same(self, before: LoopSettings) -> None:
        """Raise ConfigError where the loop was begun with other settings."""
        ours, theirs = self.to_json(), before.to_json()
        changed = [name for name in ours if ours[name] != theirs[name] and name not in MAY_CHANGE]
        if changed:
            was = ", ".join(f"{name}={shown(theirs[name])}" for name in changed)
            raise ConfigError(f"this loop was begun with {was}; go on with the same, or choose another --out")
