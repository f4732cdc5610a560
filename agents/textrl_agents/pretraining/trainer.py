"""The stock trainer of transformers with the loss of an objective in place of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer

from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.pretraining.losses import LOSSES, Tokens, Weights
from textrl_agents.trl.rows import IGNORED

PRETRAIN = TRLAlgorithm(
    name="pretrain",
    description="pretraining with preferences, by the trainer of transformers",
    trainer_class="textrl_agents.pretraining.trainer:PretrainingTrainer",
    config_class="transformers:TrainingArguments",
)
VALUE_HEAD = "value_head"  # the module of the model, while it is trained


class PretrainingTrainer(Trainer):
    """Takes batches of `rows.collate`. Its loss is the mean of the objective's over a batch's learned tokens.

    loss: a key of `losses.LOSSES`; weights: its own. A model with a module `value_head`, from hidden states to 1, has
    that trained too.
    """

    def __init__(self, *args: Any, loss: str, weights: Weights, **keywords: Any):
        super().__init__(*args, **keywords)
        self._loss, self._weights = LOSSES[loss], weights
        self._tokens = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss; over all `num_items_in_batch` tokens of the step where several batches make one."""
        head: nn.Module | None = getattr(model, VALUE_HEAD, None)
        output = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            output_hidden_states=head is not None,
        )
        labels = inputs["labels"][:, 1:]
        learned = labels != IGNORED  # (B, T-1); M of them
        tokens = Tokens(
            log_probs=_log_probs(output.logits[:, :-1][learned], labels[learned]),
            scores=inputs["scores"][:, 1:][learned],
            good=inputs["good"][:, 1:][learned],
            values=None if head is None else head(output.hidden_states[-1][:, :-1][learned]).squeeze(-1).float(),
        )
        self._tokens += int(inputs["attention_mask"].sum())
        count = learned.sum() if num_items_in_batch is None else num_items_in_batch
        loss = self._loss(tokens, self._weights).sum() / count
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **keywords: Any) -> None:
        """Report how many tokens were trained on since this process began, as TRL's trainers do."""
        super().log({**logs, "num_tokens": self._tokens}, *args, **keywords)


def _log_probs(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """[M, V], int64 [M] -> float32 [M]."""
    return -nn.functional.cross_entropy(logits.float(), chosen, reduction="none")


def log_mean_weight(scores: np.ndarray, beta: float) -> float:
    """log of the mean of exp(score / beta); large scores do not overflow."""
    exponents = scores / beta
    return float(np.logaddexp.reduce(exponents) - np.log(len(exponents)))
