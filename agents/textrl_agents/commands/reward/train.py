"""`textrl reward train` and `textrl reward eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textrl_agents.commands.options import (
    AsJson,
    Device,
    Threads,
    check_names,
    print_json,
    print_table,
    set_threads,
    told_on_stderr,
)
from textrl_env.foreign_text import visible
from textrl_env.user_values import user_path

if TYPE_CHECKING:  # a typo shows before torch is imported
    from textrl_agents.reward_models.measures.evaluation import RewardModelEvaluation
    from textrl_agents.reward_models.report import RewardModelReport

Source = Annotated[
    Path, typer.Argument(metavar="STORE_OR_JSONL", help="Feedback store, or a file that `feedback import` takes.")
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; it must not be there yet, or be empty.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model that a classifier starts from, or whose hidden states are read: a folder, a training run, a "
        "Hugging Face id, embedded (the policy; default of trunk) or embedded-reward (default of the others; it knows "
        "the sentiment task's gold score already)."
    ),
]
KindName = Annotated[
    str,
    typer.Option(
        help="classifier (TRL's RewardTrainer), trunk (a head on a frozen policy), linear (logistic regression) or svm."
    ),
]
Ensemble = Annotated[int, typer.Option(min=1, help="Models that load as one ensemble.")]
Combine = Annotated[str, typer.Option(help="Score of an ensemble: mean, worst or uncertainty.")]
Bootstrap = Annotated[
    bool,
    typer.Option(
        "--bootstrap/--no-bootstrap",
        help="Whether each classifier of an ensemble learns from prompts drawn anew, or all from all prompts.",
    ),
]
FeaturesName = Annotated[str, typer.Option(help="Of linear and svm: hidden_states or hashed_ngrams.")]
Pooling = Annotated[str, typer.Option(help="Of hidden states: mean over response or all tokens, or the last token.")]
Layers = Annotated[
    int | None,
    typer.Option(min=1, help="Of hidden states: first layers that are read, often half to two thirds. Default: all."),
]
Seed = Annotated[int, typer.Option(min=0, help="Chooses the held-out prompts, and whatever training draws.")]
Heldout = Annotated[float, typer.Option(help="Share of the prompts that is held out.")]
VotesName = Annotated[
    str, typer.Option(help="each: every annotator's comparison counts; majority: one for all votes on a pair.")
]
Margin = Annotated[float, typer.Option(help="Margins are multiplied by it; 0 takes none. linear and svm take none.")]
Group = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the prompts to split accuracy by.")]
Weights = Annotated[
    list[str] | None, typer.Option("--weight", metavar="ATTRIBUTE=W", help="Weight of a rating; may be repeated.")
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY",
        help="Policy on whose samples scores get mean 0 and deviation 1. Default: the judged responses.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Field of TRL's RewardConfig, such as num_train_epochs=1."),
]
Gold = Annotated[str | None, typer.Option(metavar="TASK", help="Also measure accuracy against this task's gold score.")]


def train(
    source: Source,
    out: Out,
    model: Model = None,
    kind: KindName = "classifier",
    ensemble: Ensemble = 1,
    combine: Combine = "mean",
    bootstrap: Bootstrap = True,
    features: FeaturesName = "hidden_states",
    pooling: Pooling = "response",
    layers: Layers = None,
    seed: Seed = 0,
    heldout: Heldout = 0.2,
    votes: VotesName = "each",
    margin_scale: Margin = 1.0,
    weight: Weights = None,
    group: Group = None,
    reference: Reference = None,
    setting: Settings = None,
    gold: Gold = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a reward model on comparisons, rankings, ratings and edits, and judge it on prompts that are held out.

    DIR gets the model, a model card and report.json. Use it: textrl train --reward DIR
    """
    check_names(device=device)
    from textrl_agents.reward_models.options import TrainingOptions
    from textrl_agents.reward_models.sources import feedback_records, gold_of
    from textrl_agents.training.settings_file import parse_assignments

    options: dict[str, Any] = {
        "kind": kind,
        "model": model,
        "ensemble": ensemble,
        "combine": combine,
        "bootstrap": bootstrap,
        "features": features,
        "pooling": pooling,
        "layers": layers,
        "seed": seed,
        "heldout": heldout,
        "votes": votes,
        "margin_scale": margin_scale,
        "weights": parse_assignments(weight or [], "--weight", example="quality=2") or None,
        "group": group,
        "reference": reference,
        "settings": parse_assignments(setting or [], example="num_train_epochs=1"),
        "gold": None if gold is None else gold_of(gold),
        "device": device,
    }
    TrainingOptions(**options)  # a typo shows before torch is imported
    with told_on_stderr() as tell:
        tell("reading the records")
        records = feedback_records(source)
        from textrl_agents.reward_models.train import train_reward_model

        set_threads(threads)
        report = train_reward_model(records, out=out, told=tell, **options)
    print_json(report.to_dict()) if as_json else _print_report(report)


def evaluate(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Reward model, or anything that --reward takes.")],
    source: Source,
    votes: VotesName = "each",
    weight: Weights = None,
    group: Group = None,
    gold: Gold = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge a reward model on records: all of them, so give some that it has not learned from."""
    check_names(reward=folder)
    set_threads(threads)
    from textrl_agents.reward_models.report import caveat_of
    from textrl_agents.reward_models.sources import feedback_records, gold_of
    from textrl_agents.reward_models.train import evaluate_reward_model
    from textrl_agents.training.settings_file import parse_assignments

    with told_on_stderr() as tell:
        tell("scoring the responses")
        evaluation = evaluate_reward_model(
            folder,
            feedback_records(source),
            gold=None if gold is None else gold_of(gold),
            votes=votes,
            weights=parse_assignments(weight or [], "--weight", example="quality=2") or None,
            group=group,
        )
    if as_json:
        print_json(evaluation.to_dict())
        return
    title = f"{evaluation.pairs:,} pairs on {evaluation.prompts:,} prompts"
    _print_figures(evaluation, title, caveat_of(user_path(folder)))


def _print_report(report: RewardModelReport) -> None:
    counts = ", ".join(f"{count:,} {name}" for name, count in report.counts.items() if count)
    _print_figures(report.heldout, f"held-out prompts ({counts})", report.caveat)
    folder = visible(str(report.folder))
    typer.echo(f"Saved in {folder}. Train a policy on it: textrl train --reward {folder} ...")


def _print_figures(evaluation: RewardModelEvaluation, title: str, caveat: str | None) -> None:
    from textrl_agents.reward_models.measures.figures import figure_rows

    print_table(("measure", "value"), figure_rows(evaluation), title=title, numbers=("value",))
    if caveat is not None:
        typer.echo(visible(caveat))
