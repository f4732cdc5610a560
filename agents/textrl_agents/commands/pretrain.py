"""`textrl pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textrl_agents.commands.options import (
    MODELS,
    AsJson,
    CheckpointCount,
    Device,
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
    from textrl_agents.pretraining.run import PretrainResult

SHOWN_SAMPLES = 4

Corpus = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="A .txt file (documents with blank lines between), a .jsonl file of {text}, a folder of texts or code, "
        "datasets:<id>, or grammar[:COUNT]: text of the embedded grammar with planted insults.",
    ),
]
Out = Annotated[Path, typer.Option(help="New folder; its policy/ is the trained model in Hugging Face format.")]
ObjectiveName = Annotated[
    str, typer.Option(help="mle, filter, conditional, unlikelihood, rwr or awr; all but mle need --reward.")
]
RewardName = Annotated[
    str | None,
    typer.Option(help="Scores each sentence: a registered name such as no_insults, a file.py:function, a folder."),
]
Model = Annotated[str, typer.Option(help=f"Architecture and tokenizer, or with --continue the model: {MODELS}.")]
Continue = Annotated[bool, typer.Option("--continue", help="Go on with the model's weights, not with random ones.")]
Segment = Annotated[str, typer.Option(help="What is scored by itself: sentence, line or document.")]
Threshold = Annotated[
    float | None, typer.Option(help="Score from which a sentence (filter: a document) is good. Default: their mean.")
]
Quantile = Annotated[
    float | None, typer.Option(min=0, max=1, help="The threshold as a quantile of the scores, in its place.")
]
Alpha = Annotated[float | None, typer.Option(help="Weight of unlikelihood (1), or of the text in awr (0.5).")]
Beta = Annotated[float, typer.Option(help="Temperature of rwr and awr, in units of the score.")]
Unmarked = Annotated[
    float, typer.Option(min=0, max=1, help="Share of sentences that conditional leaves without a control token.")
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the documents.")]
Tokens = Annotated[int | None, typer.Option(min=1, help="Tokens to train on, in place of --epochs.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Documents of a step.")]
MaxLength = Annotated[
    int | None, typer.Option(min=2, help="Longest document in tokens. Default: 256, or what the model has room for.")
]
HeldoutShare = Annotated[int, typer.Option(min=0, help="One nth of the documents is held out; 0: none.")]
SampleCount = Annotated[int, typer.Option(min=0, help="Documents that are sampled at the end.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other field of transformers' TrainingArguments."),
]


def pretrain(
    corpus: Corpus,
    out: Out,
    objective: ObjectiveName = "mle",
    reward: RewardName = None,
    model: Model = "embedded",
    continues: Continue = False,
    segment: Segment = "sentence",
    threshold: Threshold = None,
    quantile: Quantile = None,
    alpha: Alpha = None,
    beta: Beta = 1.0,
    unmarked: Unmarked = 0.01,
    epochs: Epochs = 1,
    tokens: Tokens = None,
    batch_size: BatchSize = 32,
    learning_rate: PeakLearningRate = None,
    max_length: MaxLength = None,
    heldout_share: HeldoutShare = 20,
    samples: SampleCount = 64,
    checkpoints: CheckpointCount = 8,
    resume: ResumeNewest = False,
    seed: SeedOfAll = 0,
    settings: Assignments = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Pretrain a language model on a corpus, as far as a reward likes what it says.

    Each sentence is scored by itself, with an empty prompt. Then (Korbak et al. 2023): mle imitates all text, filter
    the documents above the threshold, conditional all text behind a token for good or bad, unlikelihood avoids what is
    bad, rwr and awr weigh by score and by advantage. A conditional model writes behind the good token by itself.

    In the folder are policy/, pretraining.json, metrics.jsonl, curve.png and samples.md. A run that was stopped goes on
    with the same command and --resume. Then: textrl generate OUT, textrl eval OUT, textrl train --model OUT/policy.

    Example: textrl pretrain grammar --objective conditional --reward no_insults --out runs/conditional
    """
    check_names(reward=reward, model=model, device=device)
    set_threads(threads)
    from textrl_agents.pretraining.settings import PretrainSettings
    from textrl_agents.training.settings_file import parse_assignments

    chosen = PretrainSettings(
        objective=objective,
        segment=segment,
        threshold=threshold,
        quantile=quantile,
        alpha=alpha,
        beta=beta,
        unmarked=unmarked,
        from_scratch=not continues,
        epochs=epochs,
        tokens=tokens,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        heldout_share=heldout_share,
        samples=samples,
        checkpoints=checkpoints,
        seed=seed,
        device=device,
        arguments=parse_assignments(settings or [], example="weight_decay=0.01"),
    )
    from textrl_agents.pretraining.train import pretrain as run

    result = run(corpus, out=out, reward=reward, model=model, settings=chosen, resume=resume)
    print_json(_as_json(result)) if as_json else _report(result, chosen.objective)
    if not result.finished:
        how = "; the same command with --resume goes on" if checkpoints else ""
        typer.echo(f"stopped early; policy/ is what was trained until then{how}", err=True)
        raise typer.Exit(1)


def _mean_score(result: PretrainResult) -> float | None:
    scores = [sample.score for sample in result.samples if sample.score is not None]
    return sum(scores) / len(scores) if scores else None


def _as_json(result: PretrainResult) -> dict[str, Any]:
    after = None if result.after is None else result.after._asdict()
    return {
        "policy": str(result.policy),
        "finished": result.finished,
        "documents": result.corpus.documents,
        "threshold": result.corpus.threshold,
        "good_share": result.corpus.good_share,
        "loss_before": result.loss_before,
        # JSON has no NaN, which is the loss of pieces that there are none of.
        "after": None if after is None else {name: value if value == value else None for name, value in after.items()},
        "sampled_score": _mean_score(result),
        "tokens": result.tokens,
        "seconds": round(result.seconds, 1),
        **{
            name: {"documents": len(part.rows), "tokens": part.tokens, "truncated": part.truncated}
            for name, part in (("train", result.train), ("heldout", result.heldout))
        },
        "samples": [sample._asdict() for sample in result.samples],
    }


def _report(result: PretrainResult, objective: str) -> None:
    for name, part in (("training", result.train), ("held-out", result.heldout)):
        note = f"; {part.truncated:,} cut at max_length" if part.truncated else ""
        typer.echo(f"{len(part.rows):,} {name} documents, {part.tokens:,} tokens{note}")
    if result.corpus.good_share is not None:
        what = "documents" if objective == "filter" else "pieces"
        typer.echo(f"{result.corpus.good_share:.1%} of the {what} score at least {result.corpus.threshold:g}")
    rows = [
        (sample.text, "" if sample.score is None else f"{sample.score:.2f}")
        for sample in result.samples[:SHOWN_SAMPLES]
    ]
    if rows:
        print_table(("document", "score"), rows, title="sampled from the beginning", numbers=("score",))
    if (score := _mean_score(result)) is not None:
        typer.echo(f"mean score of {len(result.samples)} sampled documents: {score:.3f}")
    if result.after is not None and result.loss_before is not None:
        told_apart = result.after.bad == result.after.bad  # else NaN: nothing is bad
        parts = f"; good pieces {result.after.good:.3f}, bad ones {result.after.bad:.3f}" if told_apart else ""
        typer.echo(f"held-out loss {result.loss_before:.3f} -> {result.after.loss:.3f} nats a token{parts}")
    typer.echo(f"{result.tokens:,} tokens in {result.seconds:.0f} s. Policy: {result.policy}")
