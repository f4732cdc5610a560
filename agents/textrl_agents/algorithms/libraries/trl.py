"""What an algorithm of TRL says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from textrl_agents.algorithms.algorithm import Algorithm, load_object
from textrl_env.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TRLAlgorithm(Algorithm):
    """A stock trainer of TRL.

    trainer_class, config_class: of TRL. defaults: fields of the config that make it this algorithm, or that fit what
        is trained here.
    rows: of an offline trainer: the function of `textrl_agents.trl.rows` that makes its data set of preference pairs.
        Without it the trainer samples by itself.
    has_reference: whether an offline trainer takes the reference as a second model.
    """

    library: ClassVar[str | None] = "trl"

    train: str = "textrl_agents.trl.train_cell:train"
    requires: Mapping[str, str] = field(default_factory={"trl": "trl"}.copy)
    trainer_class: str
    config_class: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rows: str = ""
    has_reference: bool = False

    @property
    def is_online(self) -> bool:
        """Whether it samples while it trains."""
        return not self.rows

    def check_turns(self, task: str) -> None:
        """Raise ConfigError: TRL's trainers sample and train one response."""
        raise ConfigError(
            f"TRL's {self.name_in_library.upper()} trains single responses, and an episode of task {task!r} has "
            "several turns. Train it by an algorithm of SB3 or RLlib, by best_of_n, or by expert_iteration"
        )

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise UnknownName for a setting that TRL's config does not have or that is not the user's."""
        load_object("textrl_agents.trl.train_cell:check_settings")(self, settings)
