"""`textrl sft`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textrl_agents.commands.options import (
    MODELS,
    AsJson,
    CheckpointCount,
    Device,
    Dtype,
    PeakLearningRate,
    ResumeNewest,
    SeedOfAll,
    Threads,
    check_names,
    print_json,
    print_table,
    set_threads,
)

if TYPE_CHECKING:  # a typo shows before torch is imported
    from textrl_agents.trl.sft import SFTResult
    from textrl_agents.trl.sft.rows import EncodedExamples

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Demonstrations: a .jsonl, .json or .parquet file, a folder that datasets has saved, or datasets:<id>. A "
        "row holds prompt and completion (or response), texts or chats, or messages: a whole chat.",
    ),
]
SFTOut = Annotated[Path, typer.Option(help="New folder; its policy/ is the trained model in Hugging Face format.")]
SFTModel = Annotated[str, typer.Option(help=f"Model to train: {MODELS}.")]
Heldout = Annotated[str | None, typer.Option(help="Demonstrations to measure the loss on. Default: a share of DATA.")]
HeldoutShare = Annotated[
    int, typer.Option(min=0, help="One nth of the prompts of DATA is held out; 0: none. Fewer than 16: none.")
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the rows.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows of a step.")]
Schedule = Annotated[str, typer.Option(help="Of the learning rate: cosine, linear or constant_with_warmup.")]
Warmup = Annotated[float, typer.Option(min=0, max=1, help="Share of the steps in which the rate rises to its peak.")]
MaxLength = Annotated[
    int | None, typer.Option(min=2, help="Longest row in tokens. Default: 1024, or what the model has room for.")
]
Overflow = Annotated[str, typer.Option(help="Longer rows: truncate drops their newest tokens, error refuses them.")]
LoRARank = Annotated[
    int | None,
    typer.Option("--lora", min=1, metavar="RANK", help="Train a LoRA adapter; it is merged at the end."),
]
SampleCount = Annotated[int, typer.Option(min=0, help="Prompts that are answered before and after.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other field of TRL's SFTConfig, such as weight_decay=0.01."),
]


def sft(
    data: Data,
    out: SFTOut,
    model: SFTModel = "embedded",
    heldout: Heldout = None,
    heldout_share: HeldoutShare = 10,
    epochs: Epochs = 3,
    batch_size: BatchSize = 16,
    learning_rate: PeakLearningRate = None,
    schedule: Schedule = "cosine",
    warmup: Warmup = 0.05,
    max_length: MaxLength = None,
    overflow: Overflow = "truncate",
    lora: LoRARank = None,
    samples: SampleCount = 4,
    checkpoints: CheckpointCount = 8,
    resume: ResumeNewest = False,
    seed: SeedOfAll = 0,
    settings: Assignments = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a language model on demonstrations, by TRL's SFTTrainer.

    The loss is on the responses and their end alone. In the folder are policy/, metrics.jsonl, curve.png and
    samples.md. A run that was stopped or killed goes on with the same command and
    --resume, to the same weights. Then: textrl generate OUT, textrl eval OUT, textrl train --model OUT/policy.
    """
    check_names(device=device, dtype=dtype)
    set_threads(threads)
    from textrl_agents.training.settings_file import parse_assignments
    from textrl_agents.trl.sft import SFTSettings, train_sft

    chosen = SFTSettings(
        epochs=epochs,
        heldout_share=heldout_share,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        batch_size=batch_size,
        max_length=max_length,
        overflow=overflow,
        lora=None if lora is None else {"r": lora},
        samples=samples,
        checkpoints=checkpoints,
        seed=seed,
        device=device,
        dtype=dtype,
        trl=parse_assignments(settings or [], example="weight_decay=0.01"),
    )
    result = train_sft(data, out=out, model=model, heldout=heldout, settings=chosen, resume=resume)
    print_json(_as_json(result)) if as_json else _report(result)
    if not result.finished:
        how = "; the same command with --resume goes on" if checkpoints else ""
        typer.echo(f"stopped early; policy/ is what was trained until then{how}", err=True)
        raise typer.Exit(1)


def _as_json(result: SFTResult) -> dict[str, Any]:
    return {
        "policy": str(result.policy),
        "finished": result.finished,
        "loss_before": result.loss_before,
        "loss_after": result.loss_after,
        "shared": result.shared,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 1),
        **{name: _counts(part) for name, part in (("train", result.train), ("heldout", result.heldout))},
        "samples": [sample._asdict() for sample in result.samples],
    }


def _counts(encoded: EncodedExamples) -> dict[str, int]:
    return {"rows": len(encoded.rows), "truncated": encoded.truncated, "dropped": encoded.dropped}


def _report(result: SFTResult) -> None:
    for name, part in (("training", result.train), ("held-out", result.heldout)):
        note = f"; {part.truncated} cut at max_length" if part.truncated else ""
        note += f"; {part.dropped} dropped, since their prompt fills it" if part.dropped else ""
        if part is result.heldout and result.shared:
            note += f"; {result.shared} demonstrations left out, since their prompts are trained on"
        typer.echo(f"{len(part.rows):,} {name} rows{note}")
    if result.samples:
        columns = ("prompt", "demonstrated", "before", "after")
        print_table(columns, result.samples, title="the same prompts, before and after")
    if result.loss_before is not None and result.loss_after is not None:
        typer.echo(f"held-out loss {result.loss_before:.3f} -> {result.loss_after:.3f} nats a token of a response")
    else:
        typer.echo("nothing was held out, so the loss on other prompts is not known; --heldout names a file for it")
    typer.echo(f"{result.tokens:,} tokens in {result.seconds:.0f} s. Policy: {result.policy}")
