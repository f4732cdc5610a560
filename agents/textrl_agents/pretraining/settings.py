"""How a model is pretrained, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from textrl_agents.pretraining.documents.segments import SEGMENTS
from textrl_agents.pretraining.objectives import OBJECTIVES
from textrl_env.errors import ConfigError
from textrl_env.user_values import LARGEST_SEED, check_names, check_number, check_seed, check_whole

SCHEDULES = ("cosine", "linear", "constant_with_warmup")
OURS = {  # field of transformers' TrainingArguments -> our setting of the same
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "schedule",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
}


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """How it is trained.

    objective: a key of `objectives.OBJECTIVES`. segment: the pieces that are scored, see `segments`.
    threshold: the score from which a piece, or a document where documents are filtered, is good. quantile: else its
        quantile among the scores. With neither it is their mean.
    alpha: of unlikelihood and awr; None for 1 and 0.5. beta: of rwr and awr, in units of the score.
    unmarked: share of pieces without a control token. Those of the paper are 1%.
    from_scratch: begin with random weights; else with those of the model.
    epochs: passes over the documents. tokens: to train on, in their place; the last pass may be a part of one.
    batch_size: documents of a step. max_length: the longest document in tokens; None for 256, or what the model has
        room for.
    heldout_share: n, for one nth of the documents held out, to measure the loss on; 0 for none.
    learning_rate: the peak; None for one that fits the model's size. warmup: its share of all steps.
    checkpoints: how many are written over the run; 0 for none. The newest two are kept, until the run is complete.
    samples: documents that are sampled at the end. arguments: further fields of transformers' `TrainingArguments`.

    Raises ConfigError where a value cannot be.
    """

    objective: str = "mle"
    segment: str = "sentence"
    threshold: float | None = None
    quantile: float | None = None
    alpha: float | None = None
    beta: float = 1.0
    unmarked: float = 0.01
    from_scratch: bool = True
    epochs: int = 1
    tokens: int | None = None
    batch_size: int = 32
    max_length: int | None = None
    heldout_share: int = 20
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    checkpoints: int = 8
    samples: int = 64
    seed: int = 0
    device: str = "auto"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names("objective", [self.objective], OBJECTIVES)
        check_names("segment", [self.segment], SEGMENTS)
        check_names("schedule", [self.schedule], SCHEDULES)
        check_seed(self.seed, LARGEST_SEED)
        least = {"epochs": 1, "batch_size": 1, "heldout_share": 0, "samples": 0, "checkpoints": 0}
        for name, lowest in least.items():
            check_whole(name, getattr(self, name), lowest)
        for name, lowest in {"max_length": 2, "tokens": 1}.items():
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), lowest)
        if self.heldout_share == 1:
            raise ConfigError("heldout_share=1 would hold out every document; give 0 for none, or 2 or more")
        if self.threshold is not None and self.quantile is not None:
            raise ConfigError("threshold and quantile both say what is good; give one of them")
        for name in ("threshold", "learning_rate", "alpha"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, -float("inf") if name == "threshold" else 0)
        for name in ("quantile", "unmarked", "warmup"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, 1)
        check_number("beta", self.beta, 0, above=True)
        if self.objective == "awr" and self.alpha is not None and not 0 < self.alpha < 1:
            raise ConfigError(
                f"alpha of awr must lie between 0 and 1, or the model or its values would not learn; got {self.alpha:g}"
            )
        for name in self.arguments:
            if name in OURS:
                raise ConfigError(f"{name} is no further argument, but the setting {OURS[name]!r} here; give that")
        check_whole("gradient_accumulation_steps", self.accumulated, 1)

    @property
    def accumulated(self) -> Any:
        """Batches of a step."""
        return self.arguments.get("gradient_accumulation_steps", 1)
