"""What a training run needs of a library's adapter, and how a run finds its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.run_evaluations import RunEvaluations
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.training.terminal import TrainingProgress
from textrl_env.models import CausalLMActorCritic


class Trainer(Protocol):
    """An algorithm of some library, built and ready to learn. Building it writes nothing."""

    memory_settings: tuple[str, ...]  # what to lower where memory runs out
    evaluations: RunEvaluations | None  # None until `learn`, and where nothing is evaluated

    @property
    def actor_critic(self) -> CausalLMActorCritic | None:
        """The policy with its present weights; None where there is none that can be saved."""

    @property
    def timesteps(self) -> int:
        """Tokens that the weights have been trained on."""

    @property
    def rollout_tokens(self) -> int | None:
        """Tokens of a rollout; a run is made of whole ones. None where their number depends on the workers' speed."""

    def start(self, run: RunFolder, checkpoint: Path | None = None) -> None:
        """Log into `run`, and go where `checkpoint` was saved. Raises ModelError where it is broken."""

    def learn(
        self, *, progress: TrainingProgress | None = None, stop_requested: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train to the end; return False where `stop_requested` ended it early."""

    def save_after_error(self, error: BaseException) -> Path | None:
        """Save a checkpoint of the last rollout's end, if the weights are still those of then; return its folder."""

    def close(self) -> None:
        """Stop whatever was started."""


def make_trainer(config: TrainConfig) -> Trainer:
    """Build the trainer that the algorithm of `config` names. Raises ConfigError."""
    trainer: Trainer = load_object(config.algorithm_entry.trainer)(config)
    return trainer
