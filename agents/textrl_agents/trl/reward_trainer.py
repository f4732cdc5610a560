"""TRL's RewardTrainer, stock, on pairs of responses that are ids already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from textrl_agents.training.learning_rate import default_learning_rate
from textrl_agents.training.random_state import random_state, set_random_state
from textrl_agents.trl.trainer import FIXED, GIVEN, StopOnDivergence, trl_session
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3,  # twice as many learn the annotators' mistakes by heart
    "per_device_train_batch_size": 16,
    "warmup_steps": 0.1,  # below 1: a share of all steps
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    # Scores around 0, which Bradley-Terry alone does not ask for (Eisenstein et al. 2023,
    # https://arxiv.org/abs/2312.09244).
    "center_rewards_coefficient": 0.01,
}
RATE = 0.4  # of the rate that reinforcement learning starts from: there are few updates, and labels are noisy
# Rows come as ids of the length that the reward reads them with; the trainer would drop those that are longer.
DECIDED: dict[str, Any] = {"max_length": None, "remove_unused_columns": False}

Row = dict[str, Any]


def reward_row(better: Sequence[int], worse: Sequence[int], margin: float = 0.0) -> Row:
    """A row of the trainer's data set: loss = -log sigmoid(score of better - score of worse - margin)."""
    return {"chosen_ids": list(better), "rejected_ids": list(worse), "margin": float(margin)}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise UnknownName for a setting that RewardConfig does not have, or that is not the user's."""
    decided = {*FIXED, *GIVEN, *DECIDED} - {"max_steps"}
    known = [field.name for field in fields(RewardConfig) if field.init and field.name not in decided]
    for name in settings:
        if name not in known:
            raise UnknownName("setting of TRL's RewardConfig", name, known)


def train_reward_classifier(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    seed: int,
    settings: Mapping[str, Any] | None = None,
    stepped: Callable[[int, int], None] | None = None,
) -> None:
    """Train a sequence classifier with one label in place. Random generators are afterwards as they were.

    rows: at least one `reward_row`. settings: fields of RewardConfig, over DEFAULTS. stepped: called with the updates
    so far and in all.

    Raises UnknownName and ConfigError for what cannot be set, TrainingDiverged where a gradient is not finite.
    """
    given = dict(settings or {})
    check_settings(given)
    if not rows:
        raise ConfigError("RewardTrainer needs at least one pair of responses, got none")
    rate = RATE * default_learning_rate(sum(weight.numel() for weight in model.parameters() if weight.requires_grad))
    on_cpu = next(model.parameters()).device.type == "cpu"
    before = random_state()
    try:
        with trl_session() as folder:
            own = {"output_dir": folder, "seed": seed, "data_seed": seed, "use_cpu": on_cpu, "learning_rate": rate}
            known = {field.name for field in fields(RewardConfig) if field.init}
            fixed = {name: value for name, value in {**FIXED, **own, **DEFAULTS, **DECIDED}.items() if name in known}
            try:
                arguments = RewardConfig(**{**fixed, **given})
            except (TypeError, ValueError) as error:
                raise ConfigError(f"TRL's RewardConfig refuses the settings {shown(given, 200)}: {error}") from error
            callbacks = [StopOnDivergence(), *([_Steps(stepped)] if stepped is not None else [])]
            trainer = RewardTrainer(
                model=model,
                args=arguments,
                train_dataset=Dataset.from_list(list(rows)),
                processing_class=tokenizer,
                callbacks=callbacks,
            )
            trainer.remove_callback(PrinterCallback)  # prints every step where there is no progress bar
            trainer.train()
    finally:
        set_random_state(before)
        model.eval()


class _Steps(TrainerCallback):
    """Tells how far the training is."""

    def __init__(self, stepped: Callable[[int, int], None]):
        self._stepped = stepped

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stepped(state.global_step, state.max_steps)
