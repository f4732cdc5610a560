"""The training itself: from a scored corpus and a model to the run's folder."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from textrl_agents.pretraining.control_tokens import ControlTokens, add_control_tokens, sample_as_good
from textrl_agents.pretraining.data import Corpus, EncodedCorpus, encode_heldout, encode_training
from textrl_agents.pretraining.folder import PretrainingFolder
from textrl_agents.pretraining.losses import Weights
from textrl_agents.pretraining.model import model_to_pretrain
from textrl_agents.pretraining.objectives import OBJECTIVES
from textrl_agents.pretraining.rows import EncodedDocuments, collate
from textrl_agents.pretraining.samples import SampledDocument, sample_documents
from textrl_agents.pretraining.settings import OURS, PretrainSettings
from textrl_agents.pretraining.trainer import PRETRAIN, VALUE_HEAD, log_mean_weight
from textrl_agents.pretraining.validation import ValidationLoss, validation_loss
from textrl_agents.training.learning_rate import default_learning_rate
from textrl_agents.training.random_state import seed_all
from textrl_agents.training.terminal import StopSignals, TrainingProgress
from textrl_agents.trl.sft.checkpoints import KEPT, Checkpoints
from textrl_agents.trl.sft.heldout import HeldoutLoss
from textrl_agents.trl.sft.log import SFTLog
from textrl_agents.trl.trainer import StopOnDivergence, build_trainer, train_in_place, trl_arguments, trl_session
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic

EVALUATIONS = 8  # while training, besides the one before it
LONGEST = 256  # tokens of a document, where the model has room for more
MOST_LENGTH = 2048  # of an observation of the policy that is saved
SCRATCH_RATE = 4.0  # random weights bear a higher rate than trained ones
# What no user may set: the run makes the batches, evaluates, and saves.
REFUSED = (
    *OURS,
    *("remove_unused_columns", "label_names", "label_smoothing_factor", "include_num_input_tokens_seen"),
    *("per_device_eval_batch_size", "eval_strategy", "eval_steps", "eval_on_start", "load_best_model_at_end"),
    *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "resume_from_checkpoint"),
    *("ignore_data_skip", "torch_compile", "neftune_noise_alpha"),
)
GOOD_LOSS, BAD_LOSS = "heldout/good_loss", "heldout/bad_loss"
_FREE = ("device", "samples", "checkpoints")  # settings that may change: they do not change the weights


class PretrainResult(NamedTuple):
    """What came of it.

    loss_before: nats a token of the held-out documents; None where none are held out. after: the same at the end, and
        of their good and bad pieces. corpus: what was scored. train, heldout: its rows. tokens: trained on.
    """

    folder: Path
    finished: bool  # False where a signal ended it early
    loss_before: float | None
    after: ValidationLoss | None
    corpus: Corpus
    train: EncodedDocuments
    heldout: EncodedDocuments
    samples: list[SampledDocument]
    tokens: int
    seconds: float

    @property
    def policy(self) -> Path:
        """The trained model, in Hugging Face format."""
        return self.folder / "policy"


class PretrainingRun:
    """One run, of which nothing is written yet. reward: scores pieces, or None; reward_name: for the run's files."""

    def __init__(
        self,
        corpus: Corpus,
        folder: PretrainingFolder,
        settings: PretrainSettings,
        reward: Any,
        reward_name: str | None,
    ):
        self.corpus, self.folder, self.settings = corpus, folder, settings
        self.reward, self.reward_name = reward, reward_name
        self.objective = OBJECTIVES[settings.objective]

    def train(self, model: Any, tokenizer: Any, *, progress: bool) -> PretrainResult:
        """Train, and write the folder. model, tokenizer: what `load_model` takes."""
        started, settings = time.monotonic(), self.settings
        seed_all(settings.seed)
        policy, rows, control = self._prepared(model, tokenizer)
        checkpoints = Checkpoints(self.folder.checkpoints, self._identity(model, policy, rows))
        checkpoints.newest()  # or raise before anything is written
        self.folder.begin(settings, self._about(model, policy, control))
        with (
            StopSignals("saving what is trained so far; once more stops at once") as stop,
            TrainingProgress(progress) as bar,
        ):
            log = self._learn(policy, rows, checkpoints, bar, stop)
        after = self._measured(policy, rows) if rows.heldout.rows else None
        if after is not None:
            log.lines.append((log.tokens, {GOOD_LOSS: after.good, BAD_LOSS: after.bad}))
        samples = sample_documents(
            policy, settings.samples, reward=self.reward, segment=settings.segment, seed=settings.seed
        )
        self.folder.save(policy, log, samples, title=settings.objective)
        if stop.received is None:
            checkpoints.remove()
        return PretrainResult(
            folder=self.folder.path,
            finished=stop.received is None,
            loss_before=log.heldout_losses[0] if log.heldout_losses else None,
            after=after,
            corpus=self.corpus,
            train=rows.train,
            heldout=rows.heldout,
            samples=samples,
            tokens=log.tokens,
            seconds=time.monotonic() - started,
        )

    def _prepared(self, model: Any, tokenizer: Any) -> tuple[CausalLMActorCritic, EncodedCorpus, ControlTokens | None]:
        """The model as a policy, and the corpus in its ids."""
        settings = self.settings
        loaded = model_to_pretrain(model, tokenizer, from_scratch=settings.from_scratch, device=settings.device)
        positions = getattr(loaded.model.config, "max_position_embeddings", None) or LONGEST
        max_length = settings.max_length or min(positions, LONGEST)
        if max_length > positions:
            raise ConfigError(f"max_length={max_length} exceeds the model's {positions} positions")
        own, control = loaded.tokenizer, None
        if self.objective.conditional:
            own, control = add_control_tokens(loaded.model, own)
        train = encode_training(self.corpus, settings, own, max_length=max_length, control=control)
        if control is not None:
            sample_as_good(loaded.model, own, control)
        heldout = encode_heldout(self.corpus, own, max_length=max_length)
        policy = CausalLMActorCritic(loaded.model, own, max_length=min(positions, MOST_LENGTH))
        return policy, EncodedCorpus(train, heldout), control

    def _identity(self, model: Any, policy: CausalLMActorCritic, rows: EncodedCorpus) -> dict[str, Any]:
        """What decides the weights: settings, the model's name, the ids it can emit, and digests of the rows."""
        chosen = {name: value for name, value in dataclasses.asdict(self.settings).items() if name not in _FREE}
        parts = {"documents": rows.train, "held-out documents": rows.heldout}
        digests = {name: hashlib.sha256(json.dumps(part.rows).encode()).hexdigest() for name, part in parts.items()}
        about = {"model": _named(model), "vocabulary": policy.vocabulary.size, "reward": self.reward_name}
        found: dict[str, Any] = json.loads(json.dumps({**chosen, **about, **digests}))  # as it is read again
        return found

    def _about(self, model: Any, policy: CausalLMActorCritic, control: ControlTokens | None) -> dict[str, Any]:
        """What the folder says of the run beside its settings."""
        names = None if control is None else policy.tokenizer.convert_ids_to_tokens(list(control))
        return {
            "model": _named(model),
            "reward": self.reward_name,
            "documents": self.corpus.documents,
            "trained_documents": len(self.corpus.kept),
            "threshold": self.corpus.threshold,
            "good_share": self.corpus.good_share,
            # The tokenizer puts the first in front of every text, and neither is ever sampled.
            "control_tokens": None if names is None else dict(zip(("good", "bad"), names, strict=True)),
        }

    def _measured(self, policy: CausalLMActorCritic, rows: EncodedCorpus) -> ValidationLoss:
        return validation_loss(policy, rows.heldout.rows, batch_size=self.settings.batch_size)

    def _learn(
        self,
        policy: CausalLMActorCritic,
        rows: EncodedCorpus,
        checkpoints: Checkpoints,
        bar: TrainingProgress,
        stop: StopSignals,
    ) -> SFTLog:
        settings, resumed = self.settings, checkpoints.newest()
        epochs = settings.epochs if settings.tokens is None else settings.tokens / rows.train.tokens
        steps = math.ceil(epochs * math.ceil(len(rows.train.rows) / (settings.batch_size * settings.accumulated)))

        def measure() -> HeldoutLoss | None:
            if not rows.heldout.rows:
                return None
            found = self._measured(policy, rows)
            return HeldoutLoss(found.loss, found.accuracy)

        log = SFTLog(
            bar,
            stop,
            total=round(epochs * rows.train.tokens),
            measure=measure,
            every=math.ceil(steps / EVALUATIONS),
            checkpoints=checkpoints if settings.checkpoints else None,
            resumed=resumed,
        )
        with trl_session() as scratch, self._value_head(policy):
            arguments = trl_arguments(
                PRETRAIN,
                settings.arguments,
                folder=str(checkpoints.folder) if settings.checkpoints else scratch,
                seed=settings.seed,
                policy=policy,
                decided=self._decided(policy, epochs, steps),
                refused=REFUSED,
            )
            trainer = build_trainer(
                PRETRAIN,
                policy,
                arguments,
                train_dataset=Dataset.from_list([row._asdict() for row in rows.train.rows]),
                data_collator=collate,
                processing_class=copy.deepcopy(policy.tokenizer),
                callbacks=[log, StopOnDivergence()],
                loss=self.objective.loss,
                weights=self._weights(rows),
            )
            train_in_place(trainer, policy, None if resumed is None else str(resumed.folder))
        return log

    @contextmanager
    def _value_head(self, policy: CausalLMActorCritic) -> Iterator[None]:
        """Let the policy's value head be trained and saved with the model, where the objective has one."""
        if not self.objective.has_values:
            yield
            return
        policy.model.add_module(VALUE_HEAD, policy.value_head)
        try:
            yield
        finally:
            delattr(policy.model, VALUE_HEAD)

    def _weights(self, rows: EncodedCorpus) -> Weights:
        alpha = self.settings.alpha if self.settings.alpha is not None else self.objective.alpha or 0.0
        log_scale = log_mean_weight(rows.train.scores, self.settings.beta) if self.settings.objective == "rwr" else 0.0
        return Weights(alpha, self.settings.beta, log_scale)

    def _decided(self, policy: CausalLMActorCritic, epochs: float, steps: int) -> dict[str, Any]:
        """What the run decides of the trainer's configuration. steps: of the whole run."""
        settings, rate = self.settings, self.settings.learning_rate
        if rate is None:
            rate = default_learning_rate(sum(weight.numel() for weight in policy.model.parameters()))
            rate *= SCRATCH_RATE if settings.from_scratch else 1.0
        decided: dict[str, Any] = {
            "learning_rate": rate,
            "lr_scheduler_type": settings.schedule,
            "warmup_steps": round(settings.warmup * steps),
            "num_train_epochs": epochs,
            "per_device_train_batch_size": settings.batch_size,
            "weight_decay": 0.1,
            "adam_beta2": 0.95,
        }
        if settings.checkpoints:
            decided |= {"save_strategy": "steps", "save_steps": math.ceil(steps / settings.checkpoints)}
            decided |= {"save_total_limit": KEPT}
        return decided


def _named(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__
