"""Supervised fine-tuning by TRL's stock `SFTTrainer`: demonstrations into a policy folder."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from textrl_agents.algorithms.cell_setup import trained_weights
from textrl_agents.algorithms.libraries.trl import TRLAlgorithm
from textrl_agents.runs.atomic import foreign_names, locked_folder
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.training.extras import require
from textrl_agents.training.learning_rate import default_learning_rate
from textrl_agents.training.random_state import seed_all
from textrl_agents.training.terminal import StopSignals, TrainingProgress
from textrl_agents.trl.sft.checkpoints import KEPT, Checkpoints, identity_of
from textrl_agents.trl.sft.examples import Example, read_examples
from textrl_agents.trl.sft.folder import SETTINGS, SFTFolder
from textrl_agents.trl.sft.heldout import heldout_loss
from textrl_agents.trl.sft.log import SFTLog
from textrl_agents.trl.sft.rows import EncodedExamples, encode_examples
from textrl_agents.trl.sft.samples import Sample, SampledPrompts
from textrl_agents.trl.sft.settings import OURS, SFTSettings
from textrl_agents.trl.trainer import (
    StopOnDivergence,
    build_trainer,
    check_settings,
    train_in_place,
    trl_arguments,
    trl_session,
)
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic, load_model
from textrl_env.text.prompt_splits import prompt_item, split_places

SFT = TRLAlgorithm(
    name="sft",
    description="imitation of demonstrations, by TRL's SFTTrainer",
    trainer_class="trl:SFTTrainer",
    config_class="trl:SFTConfig",
)
EVALUATIONS = 8  # while training, besides the one before it
LONGEST = 1024  # tokens of a row, where the model has room for more
# What no user may set: the rows come with ids and labels, and the run evaluates.
REFUSED = (
    *OURS,
    *("dataset_kwargs", "dataset_text_field", "packing", "padding_free", "completion_only_loss", "shuffle_dataset"),
    *("assistant_only_loss", "eos_token", "pad_token", "chat_template_path"),
    *("eval_strategy", "eval_steps", "eval_on_start"),
    *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "resume_from_checkpoint"),
    *("ignore_data_skip", "load_best_model_at_end"),
)


class SFTResult(NamedTuple):
    """What came of it.

    loss_before, loss_after: what a token of a response costs in nats, the mean over all tokens of the held-out
        responses; None where none are held out.
    train, heldout: the rows, and how many did not fit. tokens: trained on, prompts included.
    shared: demonstrations that were left out of those held out, since their prompts are trained on.
    """

    folder: Path
    finished: bool  # False where a signal ended it early
    loss_before: float | None
    loss_after: float | None
    train: EncodedExamples
    heldout: EncodedExamples
    samples: list[Sample]
    tokens: int
    seconds: float
    shared: int = 0

    @property
    def policy(self) -> Path:
        """The trained model, in Hugging Face format."""
        return self.folder / "policy"


def train_sft(
    data: Any,
    *,
    out: str | Path,
    model: Any = "embedded",
    tokenizer: Any = None,
    heldout: Any = None,
    settings: SFTSettings | None = None,
    progress: bool = True,
    resume: bool = False,
) -> SFTResult:
    """Train a causal LM to answer as demonstrations do; the loss is on the responses and their EOS alone.

    data: what `read_examples` takes. heldout: the same, to measure the loss on, but for prompts that `data` has too;
        None takes a share of `data`.
    model, tokenizer: what `load_model` takes.
    out: a new folder. It gets `policy/`, which plain transformers loads, `metrics.jsonl`, `curve.png` and `samples.md`.
    progress: whether to show it on stderr.
    resume: go on where the newest checkpoint in `out` was written, with the same data, model and settings, to the same
        weights; from the start where there is none.

    Ctrl-C or SIGTERM saves what is trained so far, and a checkpoint. Raises ConfigError before anything is written,
    TrainingDiverged where a gradient is not finite.
    """
    settings = settings or SFTSettings()
    require("matplotlib")
    check_settings(SFT, settings.trl, refused=REFUSED)
    run = RunFolder(out)
    check_folder = _require_begun if resume else _require_free
    check_folder(run)
    examples = _split(read_examples(data), None if heldout is None else read_examples(heldout), settings.heldout_share)
    with locked_folder(run.path):
        check_folder(run)  # another run may have begun and ended in between
        return _train(examples, SFTFolder(run), model, tokenizer, settings, progress)


def _require_free(run: RunFolder) -> None:
    if run.path.exists() and not run.path.is_dir():
        raise ConfigError(f"out {str(run.path)!r} is a file; give a folder")
    if names := foreign_names(run.path, SETTINGS):
        raise ConfigError(f"out {str(run.path)!r} is not empty: it holds {names}. Choose another --out, or --resume")


def _require_begun(run: RunFolder) -> None:
    """Raise ConfigError where there is something else, or nothing to go on with. An empty folder will do."""
    if run.path.is_file() or ((names := foreign_names(run.path, SETTINGS)) and not (run.path / SETTINGS).is_file()):
        found = "is a file" if run.path.is_file() else f"holds no fine-tuning to go on with, but {names}"
        raise ConfigError(f"out {str(run.path)!r} {found}; choose another --out")
    if run.policy.is_dir() and not SFTFolder(run).checkpoints.is_dir():
        raise ConfigError(f"the run in {str(run.path)!r} is complete, or has no checkpoints; choose another --out")


class _Split(NamedTuple):
    train: list[Example]
    heldout: list[Example]
    shared: int = 0


def _split(data: list[Example], heldout: list[Example] | None, share: int) -> _Split:
    """Divide by prompt, so that no prompt stands on both sides; `heldout` loses those that `data` has.

    Raises ConfigError where nothing is left of it.
    """
    items = [prompt_item({"prompt": example.prompt}) for example in data]
    if heldout is not None:
        trained = set(items)
        kept = [each for each in heldout if prompt_item({"prompt": each.prompt}) not in trained]
        if not kept:
            raise ConfigError(
                f"all {len(heldout)} held-out demonstrations answer prompts that are trained on, so they would not "
                "tell how it does on others; hold out other prompts, or a share of DATA"
            )
        return _Split(data, kept, len(heldout) - len(kept))
    if share == 0:
        return _Split(data, [])
    places = split_places(items, {"heldout": share})
    return _Split([data[at] for at in places["train"]], [data[at] for at in places["heldout"]])


def _train(
    examples: _Split, folder: SFTFolder, model: Any, tokenizer: Any, settings: SFTSettings, progress: bool
) -> SFTResult:
    started = time.monotonic()
    seed_all(settings.seed)  # a LoRA adapter draws its weights
    loaded = load_model(model, tokenizer=tokenizer, device=settings.device, dtype=settings.dtype, lora=settings.lora)
    positions = getattr(loaded.model.config, "max_position_embeddings", None) or LONGEST
    max_length = settings.max_length or min(positions, LONGEST)
    if max_length > positions:
        raise ConfigError(f"max_length={max_length} exceeds the model's {positions} positions")
    policy = CausalLMActorCritic(loaded.model, loaded.tokenizer, max_length=min(positions, 2048))
    train, heldout = (
        encode_examples(part, policy.tokenizer, policy.vocabulary.eos_ids.tolist(), max_length=max_length,
                        overflow=settings.overflow)
        for part in (examples.train, examples.heldout)
    )  # fmt: skip
    if not train.rows:
        raise ConfigError(f"no row has room for a response within max_length={max_length}; raise it")
    checkpoints = Checkpoints(folder.checkpoints, identity_of(settings, model, train, heldout))
    checkpoints.newest()  # or raise before anything is written
    folder.begin(settings)
    prompts = SampledPrompts.of(examples.heldout or examples.train, policy, settings.samples, settings.seed)
    before = prompts.answers(policy)
    with (
        StopSignals("saving what is trained so far; once more stops at once") as stop,
        TrainingProgress(progress) as bar,
    ):
        log = _run(policy, train, heldout, settings, checkpoints, bar, stop)
    samples = prompts.samples(before, prompts.answers(policy))
    folder.save(policy, log, samples, label="held-out" if examples.heldout else "training")
    if stop.received is None:
        checkpoints.remove()
    losses = log.heldout_losses
    return SFTResult(
        folder=folder.path,
        finished=stop.received is None,
        loss_before=losses[0] if losses else None,
        loss_after=losses[-1] if losses else None,
        train=train,
        heldout=heldout,
        samples=samples,
        tokens=log.tokens,
        seconds=time.monotonic() - started,
        shared=examples.shared,
    )


def _run(
    policy: CausalLMActorCritic,
    train: EncodedExamples,
    heldout: EncodedExamples,
    settings: SFTSettings,
    checkpoints: Checkpoints,
    bar: TrainingProgress,
    stop: StopSignals,
) -> SFTLog:
    steps = settings.epochs * math.ceil(len(train.rows) / (settings.batch_size * settings.accumulated))
    resumed = checkpoints.newest()
    log = SFTLog(
        bar,
        stop,
        total=settings.epochs * train.tokens,
        measure=lambda: heldout_loss(policy.model, heldout.rows, batch_size=settings.batch_size),
        every=math.ceil(steps / EVALUATIONS),
        checkpoints=checkpoints if settings.checkpoints else None,
        resumed=resumed,
    )
    tokenizer = copy.deepcopy(policy.tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    with trl_session() as scratch:
        arguments = trl_arguments(
            SFT,
            settings.trl,
            folder=str(checkpoints.folder) if settings.checkpoints else scratch,
            seed=settings.seed,
            policy=policy,
            decided=_decided(policy, settings, steps),
            refused=REFUSED,
        )
        trainer = build_trainer(
            SFT,
            policy,
            arguments,
            train_dataset=_dataset(train),
            processing_class=tokenizer,
            callbacks=[log, StopOnDivergence()],
        )
        train_in_place(trainer, policy, None if resumed is None else str(resumed.folder))
    return log


def _decided(policy: CausalLMActorCritic, settings: SFTSettings, steps: int) -> dict[str, Any]:
    """What the run decides of TRL's configuration. steps: of the whole run."""
    rate = settings.learning_rate
    if rate is None:
        rate = default_learning_rate(sum(weight.numel() for weight in trained_weights(policy)))
    decided: dict[str, Any] = {
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
        "learning_rate": rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": round(settings.warmup * steps),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
    }
    if settings.checkpoints:
        decided |= {"save_strategy": "steps", "save_steps": math.ceil(steps / settings.checkpoints)}
        decided |= {"save_total_limit": KEPT}
    return decided


def _dataset(encoded: EncodedExamples) -> Dataset:
    return Dataset.from_list([row._asdict() for row in encoded.rows])
