"""What held-out documents cost the model: nats a token, of all of them and of their good and bad pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from textrl_agents.pretraining.rows import PretrainingRow, collate
from textrl_agents.trl.rows import IGNORED
from textrl_env.models import CausalLMActorCritic


class ValidationLoss(NamedTuple):
    """Nats a token, EOS included; NaN where there is none. accuracy: how often the likeliest token is the right one."""

    loss: float
    good: float
    bad: float
    accuracy: float


@torch.no_grad()
def validation_loss(policy: CausalLMActorCritic, rows: Sequence[PretrainingRow], *, batch_size: int) -> ValidationLoss:
    """Measure the distribution that is sampled from: ids that are never sampled have no share of it."""
    model, was_training = policy.model, policy.model.training
    model.eval()
    nats = {True: 0.0, False: 0.0}
    counts = {True: 0, False: 0}
    right = 0
    in_order = sorted(rows, key=lambda row: len(row.input_ids))  # so that little is padding
    for start in range(0, len(in_order), batch_size):
        batch = collate([row._asdict() for row in in_order[start : start + batch_size]])
        batch = {name: column.to(policy.device) for name, column in batch.items()}
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        labels = batch["labels"][:, 1:]
        learned = labels != IGNORED
        chosen = logits[:, :-1][learned].float()  # [M, V]
        if policy.banned is not None:
            chosen = chosen.masked_fill(policy.banned, -torch.inf)
        losses = torch.nn.functional.cross_entropy(chosen, labels[learned], reduction="none")
        good = batch["good"][:, 1:][learned]
        for kind in (True, False):
            nats[kind] += float(losses[good == kind].double().sum())
            counts[kind] += int((good == kind).sum())
        right += int((chosen.argmax(-1) == labels[learned]).sum())
    model.train(was_training)
    total = sum(counts.values())

    def mean(amount: float, count: int) -> float:
        return amount / count if count else float("nan")

    return ValidationLoss(
        mean(sum(nats.values()), total), mean(nats[True], counts[True]), mean(nats[False], counts[False]),
        mean(right, total),
    )  # fmt: skip
