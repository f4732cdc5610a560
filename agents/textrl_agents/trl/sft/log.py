"""What SFT's trainer reports while it runs, for the run's files and the terminal; and its end on a signal."""

from __future__ import annotations

from typing import Any

from transformers import IntervalStrategy, TrainerCallback

from textrl_agents.training.terminal import StopSignals, TrainingProgress

TRAIN_LOSS, HELDOUT_LOSS = "train/loss", "heldout/loss"
_NAMES = {  # TRL's -> ours
    "loss": TRAIN_LOSS,
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "mean_token_accuracy": "train/token_accuracy",
    "eval_loss": HELDOUT_LOSS,
    "eval_mean_token_accuracy": "heldout/token_accuracy",
}


class SFTLog(TrainerCallback):
    """Collects `lines`, each (tokens trained on, metrics).

    bar: shows the progress, of `total` tokens. stop: training ends after the step in which a signal came.
    There is an evaluation at the end, where there are any.
    """

    def __init__(self, bar: TrainingProgress, stop: StopSignals, *, total: int):
        self.bar, self.stop, self.total = bar, stop, total
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.tokens = 0

    @property
    def heldout_losses(self) -> list[float]:
        """Nats a token, of every evaluation."""
        return [line[HELDOUT_LOSS] for _, line in self.lines if HELDOUT_LOSS in line]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.start(0, self.total)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stop.received is not None:
            control.should_training_stop = True
        ends = control.should_training_stop or state.global_step >= state.max_steps
        control.should_evaluate |= ends and args.eval_strategy != IntervalStrategy.NO

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        line = {name: float(logs[theirs]) for theirs, name in _NAMES.items() if theirs in logs}
        if HELDOUT_LOSS in line:
            self.bar.evaluated(f"held-out loss {line[HELDOUT_LOSS]:.3f} nats a token")
        if TRAIN_LOSS in line:
            self.tokens = int(logs["num_tokens"])
            self.bar.note(f"loss {line[TRAIN_LOSS]:.3f}")
            self.bar.advance(self.tokens)
        if line:
            self.lines.append((self.tokens, line))
