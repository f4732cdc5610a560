"""Supervised fine-tuning as a run that an agent steers."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from textrl_env.errors import ConfigError, ModelError
from textrl_env.finetune.examples import IGNORED, Batch, collate, load_examples, places_in_order
from textrl_env.finetune.optimizers import CLIP_NORM, OPTIMIZERS, make_optimizer, set_learning_rate
from textrl_env.finetune.snapshot import Snapshot, copied, hash_of
from textrl_env.finetune.training_run import LEARNING_RATE, Measurement, Settings
from textrl_env.foreign_text import shown
from textrl_env.models.storage.loading import load_model, resolve_device
from textrl_env.user_values import check_names, check_number, check_whole

VALIDATION_BATCH = 64  # rows in a forward pass
LEAST_LOSS = 1e-6  # what is learned by heart has a loss near 0, whose logarithm would be all reward


class SupervisedRun:
    """Imitates answers, segment by segment. The score is `-log(validation loss)`.

    data, validation_data, train_rows, validation_rows: see `load_examples`.
    model, tokenizer, device: as `load_model` takes them. A module is copied: the caller's own is not trained.
    steps: optimizer steps of a segment. batch_size, learning_rate, optimizer: those of the start; the optimizers are
        "adamw", "sgd" and "adafactor".
    start: a Snapshot, or the file of one, that every episode begins from, with its settings; None begins with the model
        as it is.

    The loss is the mean over answers' tokens, in nats; prompts are not learned. Dropout is off. Gradients are clipped
    to norm 1. A step whose loss or gradient is not finite is not made: the run has then diverged, as it has where the
    validation loss is above `ceiling`, twice that of guessing any token (or that of the start, where it is higher). Its
    loss counts as the ceiling.

    What it does follows from its arguments, and is the same bit by bit on one machine with one number of threads.
    Raises ConfigError for data or settings that cannot be, and ModelError for a snapshot of another run.
    """

    optimizers = tuple(OPTIMIZERS)

    def __init__(
        self,
        data: str | Sequence[Mapping[str, Any]] = "translate",
        *,
        validation_data: Sequence[Mapping[str, Any]] | None = None,
        model: str | Path | Any = "embedded",
        tokenizer: Any = None,
        steps: int = 4,
        batch_size: int = 4,
        learning_rate: float = 1e-4,
        optimizer: str = "adamw",
        train_rows: int = 256,
        validation_rows: int = 8,
        device: str | torch.device = "auto",
        start: Snapshot | str | Path | None = None,
    ):
        check_whole("steps", steps, 1)
        check_whole("batch_size", batch_size, 1)
        check_number("learning_rate", learning_rate, 0, above=True)
        check_names("optimizer", [optimizer], OPTIMIZERS)
        self.model, tokenizer = _own_model(model, tokenizer, device)
        self.examples = load_examples(
            data,
            tokenizer,
            validation_data=validation_data,
            train_rows=train_rows,
            validation_rows=validation_rows,
            max_length=getattr(self.model.config, "max_position_embeddings", None),
        )
        self.steps = steps
        self.settings = Settings({LEARNING_RATE: float(learning_rate)}, optimizer, batch_size)
        self._pad = next(
            (each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id) if each is not None), 0
        )  # any id will do: nothing attends to the right
        self._device = next(self.model.parameters()).device
        self._judging = list(self._validation_batches())
        self._weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        if not self._weights:
            raise ConfigError("the model has no weight that may be trained: requires_grad is off for all of them")
        self.model_hash, self.data_hash = hash_of(self._weights), self.examples.fingerprint
        self._current, self._order_seed, self._drawn = self.settings, 0, 0
        self._optimizer = make_optimizer(optimizer, self._weights.values())
        self._start = self.snapshot()
        if start is not None:
            self._start = start if isinstance(start, Snapshot) else Snapshot.load(start)
            self._check(self._start)
            self._put_back(self._start)
            self.settings = self._start.settings
        self._first_loss = self._validation_loss()
        if not math.isfinite(self._first_loss):
            raise ConfigError(f"the model's loss on the validation rows is {self._first_loss} before any training")
        self.ceiling = 2 * max(math.log(self.model.config.vocab_size), self._first_loss)
        self._begun: tuple[int, Measurement] | None = None  # an order's seed, and what `begin` measured

    def begin(self, order_seed: int) -> Measurement:
        """Go back to the start, and look at the first batch."""
        self._put_back(self._start)
        self._order_seed = order_seed
        if self._begun is None or self._begun[0] != order_seed:
            loss, norm = self._gradient(next(self._batches(self.settings.batch_size)))
            self._optimizer.zero_grad()
            self._begun = order_seed, Measurement(_score(self._first_loss), loss, self._first_loss, norm)
        return self._begun[1]

    def train(self, settings: Settings) -> Measurement:
        """Train one segment of `steps` optimizer steps."""
        if settings.optimizer != self._current.optimizer:
            self._optimizer = make_optimizer(settings.optimizer, self._weights.values())
        self._current = settings
        set_learning_rate(self._optimizer, settings.optimizer, settings.dials[LEARNING_RATE])
        losses, norms = list[float](), list[float]()
        for batch in itertools.islice(self._batches(settings.batch_size), self.steps):
            loss, norm = self._gradient(batch)
            losses.append(loss)
            norms.append(norm)
            is_finite = math.isfinite(loss) and math.isfinite(norm)
            if is_finite:
                self._optimizer.step()
            self._optimizer.zero_grad()
            if not is_finite:
                return self._diverged(losses, norms)
        self._drawn += self.steps * settings.batch_size
        return self._judged(losses, norms)

    def snapshot(self) -> Snapshot:
        """Copy weights, the optimizer's state and the place in the data."""
        return Snapshot(
            model=self.model_hash,
            data=self.data_hash,
            weights=copied(self._weights),
            moments=copied(self._optimizer.state_dict()["state"]),
            settings=self._current,
            order_seed=self._order_seed,
            drawn=self._drawn,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of a run of the same model and data. Raises ModelError, and changes nothing."""
        self._check(snapshot)
        self._put_back(snapshot)

    # --- a step ---------------------------------------------------------------------------------------------

    def _batches(self, batch_size: int) -> Iterator[Batch]:
        """Batches from the place in the data on, without end."""
        train = self.examples.train
        for start in itertools.count(self._drawn, batch_size):
            places = places_in_order(self._order_seed, start, batch_size, len(train))
            yield collate([train[place] for place in places], self._pad, self._device)

    def _gradient(self, batch: Batch) -> tuple[float, float]:
        """Compute loss and clipped gradients of a batch; return the loss and the norm before clipping."""
        loss = self._loss(batch) / (batch.labels != IGNORED).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._weights.values(), CLIP_NORM)
        return loss.item(), norm.item()

    def _loss(self, batch: Batch) -> torch.Tensor:
        """Sum of -log p over the answers' tokens."""
        logits = self.model(input_ids=batch.input_ids, use_cache=False).logits  # [B, T, V]
        return nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )

    # --- what is known after a segment ----------------------------------------------------------------------

    def _validation_batches(self) -> Iterator[Batch]:
        rows = sorted(self.examples.validation, key=lambda example: len(example.ids))  # less padding
        for start in range(0, len(rows), VALIDATION_BATCH):
            yield collate(rows[start : start + VALIDATION_BATCH], self._pad, self._device)

    @torch.inference_mode()
    def _validation_loss(self) -> float:
        nats = sum(self._loss(batch).item() for batch in self._judging)
        return nats / sum(int((batch.labels != IGNORED).sum()) for batch in self._judging)

    def _judged(self, losses: Sequence[float], norms: Sequence[float]) -> Measurement:
        loss = self._validation_loss()
        if not loss <= self.ceiling:  # true of NaN too
            return self._diverged(losses, norms)
        return Measurement(_score(loss), fmean(losses), loss, fmean(norms))

    def _diverged(self, losses: Sequence[float], norms: Sequence[float]) -> Measurement:
        """The measurement of a run that cannot go on. What is not finite is left out, or counts as the ceiling."""
        loss, norm = (
            fmean([value for value in values if math.isfinite(value)] or [self.ceiling]) for values in (losses, norms)
        )
        return Measurement(_score(self.ceiling), loss, self.ceiling, norm, diverged=True)

    # --- snapshots ------------------------------------------------------------------------------------------

    def _check(self, snapshot: Snapshot) -> None:
        """Raise ModelError where the snapshot is of another run."""
        if not isinstance(snapshot, Snapshot):
            raise ModelError(f"expected a Snapshot of a supervised run, got {shown(snapshot)}")
        for what, theirs, ours in (
            ("model", snapshot.model, self.model_hash),
            ("data", snapshot.data, self.data_hash),
        ):
            if theirs != ours:
                raise ModelError(
                    f"this is a snapshot of another {what} ({theirs[:12]}, and this run's is {ours[:12]}). Nothing was "
                    f"changed. Give the {what} that it was made with, or a snapshot of this run"
                )
        shapes = {name: weight.shape for name, weight in self._weights.items()}
        if {name: weight.shape for name, weight in snapshot.weights.items()} != shapes:
            raise ModelError("this snapshot does not hold all of the model's weights, in their shapes: it was changed")
        check_names("optimizer of a snapshot", [snapshot.settings.optimizer], OPTIMIZERS)

    def _put_back(self, snapshot: Snapshot) -> None:
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(snapshot.weights[name])
        self._optimizer = make_optimizer(snapshot.settings.optimizer, self._weights.values())
        if snapshot.moments:
            groups = self._optimizer.state_dict()["param_groups"]
            # Copied, because an optimizer goes on to write into the tensors that it is given.
            self._optimizer.load_state_dict({"state": copied(snapshot.moments), "param_groups": groups})
        self._current, self._order_seed, self._drawn = snapshot.settings, snapshot.order_seed, snapshot.drawn


def _score(loss: float) -> float:
    return -math.log(max(loss, LEAST_LOSS))


def _own_model(model: Any, tokenizer: Any, device: Any) -> tuple[Any, Any]:
    """Load a model, or copy one, so that training it changes nothing of the caller's."""
    place = resolve_device(device)
    if isinstance(model, (str, Path)):
        loaded = load_model(model, tokenizer=tokenizer, device=place)
        return loaded.model, loaded.tokenizer
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be a name, a folder or a causal LM, got {type(model).__name__}")
    loaded = load_model(copy.deepcopy(model), tokenizer=tokenizer, device=place)
    return loaded.model, loaded.tokenizer
